//! Lines for the task's log. Standard output and standard error end up there as well, as `info` and
//! `warn`.
//!
//! ```
//! use taskforge_sdk::log;
//!
//! let rows = 12;
//! log::info(format_args!("{rows} rows read"));
//! ```

use std::fmt::Display;

macro_rules! levels {
    ($($(#[$doc:meta])* $function:ident = $level:ident;)*) => {$(
        $(#[$doc])*
        pub fn $function(message: impl Display) {
            #[cfg(target_family = "wasm")]
            {
                use crate::__private::bindings::wasi::logging::logging;
                logging::log(logging::Level::$level, "", &message.to_string());
            }
            #[cfg(not(target_family = "wasm"))]
            eprintln!("{}: {message}", stringify!($function));
        }
    )*};
}

levels! {
    /// The finest detail.
    trace = Trace;
    /// For the plugin's author.
    debug = Debug;
    /// For whoever reads the task's log.
    info = Info;
    /// Something is not as it should be, and the handler goes on.
    warn = Warn;
    /// Something failed.
    error = Error;
    /// Something failed badly.
    critical = Critical;
}
