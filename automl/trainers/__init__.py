"""What runs a trial: templates that import a study and fork, the trial's process and handle, the worker."""
