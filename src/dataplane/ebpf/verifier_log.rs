//! The log of the kernel's verifier (Documentation/bpf/verifier.rst), as part of an error.

use std::io;

/// Lines at the end of the log that say why: the instruction, the reason and the statistics.
const LINES: usize = 3;

/// `error` with the last lines of `log`; as it is where the log is empty, since the kernel then refused
/// before the verifier ran.
pub(super) fn explain(error: io::Error, log: &[u8]) -> io::Error {
    let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let Some(last) = lines.len().checked_sub(1) else { return error };
    let from = (last + 1).saturating_sub(LINES);
    io::Error::new(error.kind(), format!("{error}; the kernel's verifier: {}", lines[from..].join("; ")))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::explain;

    fn denied() -> io::Error {
        io::Error::from_raw_os_error(libc::EACCES)
    }

    #[test]
    fn the_last_lines_are_part_of_the_error() {
        let log = b"0: R1=ctx() R10=fp0\n0: (b7) r0 = 1\n1: (71) r2 = *(u8 *)(r3 +0)\nR3 !read_ok\n\
                    processed 2 insns (limit 1000000)\n\0\0\0";
        let error = explain(denied(), log);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let wanted = "the kernel's verifier: 1: (71) r2 = *(u8 *)(r3 +0); R3 !read_ok; \
                      processed 2 insns (limit 1000000)";
        assert!(error.to_string().ends_with(wanted), "{error}");
        let one = explain(denied(), b"R3 !read_ok");
        assert!(one.to_string().ends_with("(os error 13); the kernel's verifier: R3 !read_ok"), "{one}");
    }

    #[test]
    fn without_a_log_the_error_is_the_kernels() {
        for log in [&[0; 64][..], b"", b"\n \n\0"] {
            assert_eq!(explain(denied(), log).raw_os_error(), Some(libc::EACCES));
        }
    }
}
