//! Rules of a protocol that tests may break on purpose, to prove that they notice.

/// Defines `Mutation`: one rule a line, with the name used in commands and what is done instead.
#[macro_export]
macro_rules! mutations {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// A rule to break.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Mutation { $(#[doc = $doc] $name,)* }

        impl Mutation {
            /// All mutations.
            pub const ALL: &'static [Mutation] = &[$(Mutation::$name,)*];

            /// The name used in commands.
            pub const fn name(self) -> &'static str {
                match self { $(Mutation::$name => $text,)* }
            }
        }
    };
}
