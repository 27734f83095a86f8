//! Defects on purpose, to show that tests find them.

/// Ways to break the mesh; a program can only have [`Sabotage::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// A working mesh.
    #[default]
    None,
    /// Calls that must not be repeated are.
    #[cfg(feature = "faulty")]
    RepeatEverything,
}

impl Sabotage {
    pub(crate) fn repeats_everything(self) -> bool {
        #[cfg(feature = "faulty")]
        return self == Self::RepeatEverything;
        #[cfg(not(feature = "faulty"))]
        false
    }
}
