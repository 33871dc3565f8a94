"""Forms that a plan takes: `envoy` as files, `environment` as variables; `manifest` checks what is read again. Pure."""
