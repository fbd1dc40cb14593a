//! The command people type. It links no native library; see [`switchyard::cli::main_thin`].

fn main() -> std::process::ExitCode {
    switchyard::cli::main_thin()
}
