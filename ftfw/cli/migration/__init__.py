"""Translation of conntrackd's configuration into ftfw's, for `ftfw check --from-conntrackd`.  Pure."""
