"""Translates conntrackd's configuration into ftfw's, for `ftfw check --from-conntrackd`.  Pure."""
