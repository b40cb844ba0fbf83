"""The experiment, its training step, and how a configuration becomes one."""
