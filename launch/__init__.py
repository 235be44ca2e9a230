"""Starting gmeta_tf: the ``gmeta-tf`` command, and the scripts for set-up, tests and many hosts."""
