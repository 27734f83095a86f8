//! Constants and order of the 64 steps of MD5 (RFC 1321, section 3.4), for vectors of any width.

/// Initial state of every digest.
pub(crate) const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Constant of each step: the integer part of 2^32 times the absolute sine of the step's number,
/// counted from 1.
pub(crate) const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// Returns the word of the chunk that a step adds.
pub(crate) const fn word_of(step: usize) -> usize {
    match step / 16 {
        0 => step % 16,
        1 => (5 * step + 1) % 16,
        2 => (3 * step + 5) % 16,
        _ => (7 * step) % 16,
    }
}

/// Defines `compress`, which compresses the runs of one pass with the instructions `$features`.
///
/// The steps of one group of lanes wait for each other, so `compress` makes each step for all of
/// its `G` groups: the processor works on one group while another one waits. The module that uses
/// the macro has the functions `transpose`, `splat`, `add`, `rotate` and `mix_1` to `mix_4` for
/// vectors `$vector` of `$lanes` lanes.
macro_rules! define_compress {
    ($features:literal, $vector:ty, $lanes:expr) => {
        #[target_feature(enable = $features)]
        pub(crate) fn compress<const G: usize>(
            states: &mut $crate::schedule::States<$lanes, G>,
            runs: &$crate::schedule::Runs<'_, $lanes, G>,
        ) {
            let word_of_groups = |word: usize| -> [$vector; G] {
                std::array::from_fn(|group| bytemuck::cast(states[group][word]))
            };
            let mut a = word_of_groups(0);
            let mut b = word_of_groups(1);
            let mut c = word_of_groups(2);
            let mut d = word_of_groups(3);

            for i in 0..runs[0][0].len() {
                let mut words = [[splat(0); 16]; G];
                for group in 0..G {
                    words[group] = transpose(runs[group].map(|run| &run[i]));
                }
                let (a_before, b_before, c_before, d_before) = (a, b, c, d);
                $crate::rounds::md5_steps!(G, words, a, b, c, d);
                for group in 0..G {
                    a[group] = add(a[group], a_before[group]);
                    b[group] = add(b[group], b_before[group]);
                    c[group] = add(c[group], c_before[group]);
                    d[group] = add(d[group], d_before[group]);
                }
            }

            for group in 0..G {
                states[group] = [a, b, c, d].map(|word| bytemuck::cast(word[group]));
            }
        }
    };
}
pub(crate) use define_compress;

/// Makes the 64 steps for `$groups` groups of lanes.
///
/// `$a` to `$d` are arrays with one vector for each group, `$words` has the 16 words of the chunk
/// of each group.
macro_rules! md5_steps {
    ($groups:ident, $words:ident, $a:ident, $b:ident, $c:ident, $d:ident) => {
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_1 0 7 12 17 22);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_1 4 7 12 17 22);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_1 8 7 12 17 22);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_1 12 7 12 17 22);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_2 16 5 9 14 20);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_2 20 5 9 14 20);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_2 24 5 9 14 20);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_2 28 5 9 14 20);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_3 32 4 11 16 23);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_3 36 4 11 16 23);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_3 40 4 11 16 23);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_3 44 4 11 16 23);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_4 48 6 10 15 21);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_4 52 6 10 15 21);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_4 56 6 10 15 21);
        $crate::rounds::md5_steps!(@four $groups $words $a $b $c $d mix_4 60 6 10 15 21);
    };
    // Four steps, after which each variable has its role again.
    (@four $groups:ident $words:ident $a:ident $b:ident $c:ident $d:ident
     $mix:ident $step:literal $s0:literal $s1:literal $s2:literal $s3:literal) => {
        $crate::rounds::md5_steps!(@one $groups $words $a $b $c $d $mix $step, $s0);
        $crate::rounds::md5_steps!(@one $groups $words $d $a $b $c $mix $step + 1, $s1);
        $crate::rounds::md5_steps!(@one $groups $words $c $d $a $b $mix $step + 2, $s2);
        $crate::rounds::md5_steps!(@one $groups $words $b $c $d $a $mix $step + 3, $s3);
    };
    (@one $groups:ident $words:ident $a:ident $b:ident $c:ident $d:ident
     $mix:ident $step:expr, $shift:literal) => {
        for group in 0..$groups {
            // Does not depend on the step before, so it is ready when that step ends.
            let word = $words[group][const { $crate::rounds::word_of($step) }];
            let constant = splat(const { $crate::rounds::SINES[$step] });
            let early = add($a[group], add(word, constant));

            let sum = $mix(early, $b[group], $c[group], $d[group]);
            $a[group] = add($b[group], rotate::<$shift, { 32 - $shift }>(sum));
        }
    };
}
pub(crate) use md5_steps;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_the_steps_are_sines() {
        for (step, constant) in (1u32..).zip(SINES) {
            let sine = f64::from(step).sin().abs();
            assert_eq!(f64::from(constant), (sine * 4_294_967_296.0).floor());
        }
    }

    #[test]
    fn every_round_adds_every_word_once() {
        for round in 0..4 {
            let mut words: Vec<usize> = (0..16).map(|step| word_of(16 * round + step)).collect();
            words.sort_unstable();
            assert!(words.into_iter().eq(0..16), "round {round}");
        }
    }
}
