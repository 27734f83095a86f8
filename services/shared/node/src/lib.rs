//! What every role needs to be a good process: environment, telemetry, shutdown, admin port.
