"""One degradation protocol per file; each declares PROTOCOL. See `components.degrade.protocol`."""
