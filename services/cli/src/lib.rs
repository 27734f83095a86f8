//! The one program: every role, the all-in-one and the admin commands.
