"""The `gmeta-tf` command, one subcommand a file."""
