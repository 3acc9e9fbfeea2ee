"""The commands of `automl`, by what they are about. Everything heavy is imported by the command that needs it."""
