//! The gateway: the only public door, REST over HTTP.
