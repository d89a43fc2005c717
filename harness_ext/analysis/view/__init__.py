"""The command `harness-ext view`: the report, served on this machine while runs are going on."""
