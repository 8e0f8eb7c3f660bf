//! The instruction sets that kernels are compiled for, chosen at run time.

use std::sync::OnceLock;

/// The environment's variable that lowers what kernels may use.
const VARIABLE: &str = "STEADYDANCE_CPU_LEVEL";

/// The registers that a kernel of f32 uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

/// Instruction sets in the order in which processors of a kind got them; each has all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Instructions {
    Portable,
    /// Of 64-bit ARM, which always has it.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// With FMA.
    Avx2,
    /// F, BW, DQ and VL.
    Avx512,
    /// Products of bytes in AVX-512.
    Avx512Vnni,
    /// Products of pairs of bf16.
    Avx512Bf16,
}

impl Instructions {
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
    ];

    /// As the environment's variable spells it.
    fn spelling(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// As people call it.
    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Avx512Bf16 => "AVX-512 BF16",
        }
    }

    /// The most that this machine has.
    fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma")) {
                return Self::Portable;
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
                return Self::Avx2;
            }
            match (has!("avx512vnni"), has!("avx512bf16")) {
                (true, true) => Self::Avx512Bf16,
                (true, false) => Self::Avx512Vnni,
                (false, _) => Self::Avx512,
            }
        }
        #[cfg(target_arch = "aarch64")]
        return Self::Neon;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self::Portable
    }

    /// What kernels may use: what the machine has and the environment allows. A variable that cannot be read counts as
    /// none; [`check_cpu_level`] is there to complain.
    fn allowed() -> Self {
        static ALLOWED: OnceLock<Instructions> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            let most = requested().ok().flatten().unwrap_or(Self::Avx512Bf16);
            Self::of_machine().min(most)
        })
    }
}

/// What [`VARIABLE`] says.
fn requested() -> Result<Option<Instructions>, CpuLevelError> {
    match std::env::var_os(VARIABLE) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => {
            let found = Instructions::ALL.iter().copied().find(|i| value.eq_ignore_ascii_case(i.spelling()));
            found.map(Some).ok_or_else(|| CpuLevelError { value: value.to_string_lossy().into_owned() })
        }
    }
}

/// [`STEADYDANCE_CPU_LEVEL`](check_cpu_level) says something that is no instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} is {value:?}; expected {}, the most that kernels may use", spellings())]
#[non_exhaustive]
pub struct CpuLevelError {
    /// What it says.
    pub value: String,
}

/// `a, b or c`.
fn spellings() -> String {
    let all: Vec<&str> = Instructions::ALL.iter().map(|i| i.spelling()).collect();
    let (last, others) = all.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", others.join(", "))
}

/// Whether the environment's `STEADYDANCE_CPU_LEVEL` can be understood: `portable`, `avx2`, `avx512`, `avx512-vnni` or
/// `avx512-bf16` (on ARM also `neon`), the most that kernels may use. What the machine does not have is not used anyway.
///
/// # Errors
/// Anything else in it; kernels ignore that.
pub fn check_cpu_level() -> Result<(), CpuLevelError> {
    requested().map(drop)
}

/// The instruction set that kernels use on this machine, the best of those they are compiled for: `AVX-512 BF16`,
/// `AVX-512 VNNI`, `AVX-512`, `AVX2`, `NEON`, or `portable` where the compiler's own is all there is. The environment may lower
/// it ([`check_cpu_level`]).
pub fn instruction_set() -> &'static str {
    Instructions::allowed().name()
}

/// Whether products of pairs of bf16 with sums in f32 may be used (`vdpbf16ps`).
pub(crate) fn bf16_products() -> bool {
    Instructions::allowed() >= Instructions::Avx512Bf16
}

/// Whether products of bytes with sums in 32 bits may be used (`vpdpbusd`).
pub(crate) fn int8_products() -> bool {
    Instructions::allowed() >= Instructions::Avx512Vnni
}

impl Level {
    /// The best that this machine has and the environment allows.
    pub(crate) fn detect() -> Self {
        Self::available()[0]
    }

    /// All of these, best first.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = Vec::with_capacity(3);
        #[cfg(target_arch = "x86_64")]
        {
            if Instructions::allowed() >= Instructions::Avx512 {
                levels.push(Self::Avx512);
            }
            if Instructions::allowed() >= Instructions::Avx2 {
                levels.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if Instructions::allowed() >= Instructions::Neon {
            levels.push(Self::Neon);
        }
        levels.push(Self::Portable);
        levels
    }
}
