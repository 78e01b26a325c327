//! The bucket (= partition) of a device, as Kafka's default partitioner computes it.

/// Computes the bucket of a device: `(murmur2(device) & 0x7fffffff) mod buckets`.
///
/// Foreign producers that use Kafka's default partitioner with the device id as the key put their
/// records into the same partition.
///
/// # Panics
/// When `buckets` is 0 or above 65 536: the number is fixed when a store is created and checked
/// there.
pub fn bucket_of(device: &[u8], buckets: u32) -> u16 {
    assert!(
        (1..=65_536).contains(&buckets),
        "bucket count {buckets} is outside 1..=65536"
    );
    let bucket = (murmur2(device) & 0x7fff_ffff) % buckets;
    u16::try_from(bucket).expect("the remainder is below 65536")
}

/// Computes Kafka's variant of MurmurHash2 (32 bits, seed 0x9747b28c), as
/// `org.apache.kafka.common.utils.Utils.murmur2` does.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Java's length is a 32-bit int; ids are far shorter.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    for (i, &byte) in tail.iter().enumerate() {
        hash ^= u32::from(byte) << (8 * i);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_the_values_of_kafkas_own_test() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn a_bucket_is_the_positive_hash_modulo_the_count() {
        // -973932308 & 0x7fffffff = 1173551340
        assert_eq!(bucket_of(b"21", 64), (1_173_551_340_u32 % 64) as u16);
        assert_eq!(bucket_of(b"21", 7), (1_173_551_340_u32 % 7) as u16);
        assert_eq!(bucket_of(b"", 1), 0);
    }

    #[test]
    #[should_panic(expected = "bucket count 0")]
    fn a_store_without_buckets_is_refused() {
        bucket_of(b"x", 0);
    }
}
