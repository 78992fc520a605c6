//! Keeps the unwinder and the symboliser out of the static binary.
//!
//! A panic aborts, and the binary is stripped, so a backtrace would list nothing but "unknown".
//! Yet for it std's panic message links libunwind, a DWARF reader, a decompressor and a demangler:
//! 270 KB of the 1 MiB we allow ourselves (measured). std reaches all of that through these
//! functions of the unwinder's C interface (Itanium C++ ABI, Exception Handling, sections 1.2 to
//! 1.4, and GCC's extensions to it); defined here, they say "no frames", and the linker drops the
//! rest. The panic message itself, with file and line, is printed as ever.
//!
//! Debug builds and tests keep the real ones: their backtraces are worth reading.

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`: there are no more frames.
const END_OF_STACK: c_int = 5;

macro_rules! absent {
    ($($name:ident($($arg:ty),*) -> $ret:ty = $value:expr;)*) => {$(
        // SAFETY: the name and the signature are those of the unwinder's C interface, and nothing
        // else in the program defines it: libunwind is linked only where one of these is missing.
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $arg),*) -> $ret {
            $value
        }
    )*};
}

absent! {
    _Unwind_Backtrace(*const c_void, *mut c_void) -> c_int = END_OF_STACK;
    _Unwind_GetIP(*mut c_void) -> usize = 0;
    _Unwind_GetIPInfo(*mut c_void, *mut c_int) -> usize = 0;
    _Unwind_GetCFA(*mut c_void) -> usize = 0;
    _Unwind_FindEnclosingFunction(*mut c_void) -> *mut c_void = std::ptr::null_mut();
    _Unwind_GetLanguageSpecificData(*mut c_void) -> *mut c_void = std::ptr::null_mut();
    _Unwind_GetRegionStart(*mut c_void) -> usize = 0;
    _Unwind_GetTextRelBase(*mut c_void) -> usize = 0;
    _Unwind_GetDataRelBase(*mut c_void) -> usize = 0;
    _Unwind_SetGR(*mut c_void, c_int, usize) -> () = ();
    _Unwind_SetIP(*mut c_void, usize) -> () = ();
    _Unwind_DeleteException(*mut c_void) -> () = ();
    _Unwind_RaiseException(*mut c_void) -> c_int = END_OF_STACK;
    _Unwind_Resume(*mut c_void) -> ! = std::process::abort();
}
