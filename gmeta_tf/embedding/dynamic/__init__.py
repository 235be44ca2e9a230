"""Tables that grow: rules, keys, rows."""
