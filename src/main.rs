//! The `bearward` command: arguments in, exit code out.

use std::process::ExitCode;

/// See `docs/decisions/0004-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bearward::cli::main()
}
