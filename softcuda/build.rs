//! Keeps the dynamic library loaded for good: threads that ran in it clean up after themselves when they end, which may
//! be after a program has closed it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
