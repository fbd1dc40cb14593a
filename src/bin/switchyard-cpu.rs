//! The commands with the CPU runtime linked in; `switchyard` starts it where a device is needed.

fn main() -> std::process::ExitCode {
    switchyard::cli::main_device(switchyard::runtime::cpu::open_dyn)
}
