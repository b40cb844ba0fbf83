"""Upload of an export to the Hugging Face Hub (`kd_jax[hub]`).

The token is the one that huggingface_hub keeps (`hf auth login`, or HF_TOKEN).
It is given to nothing else, and is in no line, error or file.
"""

import pathlib
import re
from typing import Any

from kd_jax import errors


def check(name: str) -> None:
  """Checks that an export may be uploaded to a repository.

  Args:
    name: The repository, 'owner/name'.

  Raises:
    UsageError: The name is none, huggingface_hub is not installed, there is no
      token, or no such repository, or the Hub cannot be reached.
  """
  if not re.fullmatch(r'[\w.-]{1,96}/[\w.-]{1,96}', name, re.ASCII):
    raise errors.ArgumentError(
      f'hub={name!r}: give a repository of models as OWNER/NAME'
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise errors.UsageError(
      f"--hub needs huggingface_hub: pip install 'kd_jax[hub]' ({error})"
    ) from error
  if not huggingface_hub.get_token():
    raise errors.UsageError(
      '--hub: there is no token of the Hub: run `hf auth login`, or set '
      'HF_TOKEN; it needs the right to write'
    )
  try:
    huggingface_hub.HfApi().repo_info(name)
  except Exception as error:  # of an HTTP library that versions change
    raise errors.UsageError(f'--hub: {_why(name, error)}') from error


def upload(folder: pathlib.Path, name: str) -> None:
  """Uploads an export as one commit to a repository that is there.

  Args:
    folder: The export, which stays where it is.
    name: The repository, as checked by `check`.

  Raises:
    RunError: The upload failed.
  """
  import huggingface_hub

  try:
    huggingface_hub.HfApi().upload_folder(
      repo_id=name,
      folder_path=folder,
      commit_message='Export of kd_jax',
    )
  except Exception as error:  # of an HTTP library that versions change
    raise errors.RunError(
      f'{folder} is whole and was not uploaded: {_why(name, error)}'
    ) from error


def _why(name: str, error: Exception) -> str:
  """Returns what a failure means, without the text of a request."""
  kind = type(error).__name__
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  if status is None:
    return (
      f'the Hub gives no answer that can be used ({kind}); see to the network, '
      'or to HF_ENDPOINT'
    )
  meaning: dict[Any, str] = {
    401: f'the token is wrong, or there is no repository {name}',
    403: f'the token may not write to {name}',
    404: f'there is no repository {name}: `hf repos create {name}` makes it',
  }
  return f'{meaning.get(status, "the Hub refuses")} (status {status}, {kind})'
