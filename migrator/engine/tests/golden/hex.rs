//! Bytes as text: pairs of hexadecimal digits, and `5a*4096` for many of the same.

/// So many of the same are counted.
const MANY: usize = 16;

pub fn to_hex(bytes: &[u8]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for run in bytes.chunk_by(|a, b| a == b) {
        if run.len() >= MANY {
            words.push(format!("{:02x}*{}", run[0], run.len()));
            open = false;
            continue;
        }
        if !open {
            words.push(String::new());
            open = true;
        }
        let word = words.last_mut().unwrap();
        run.iter().for_each(|byte| *word += &format!("{byte:02x}"));
    }
    words.join(" ")
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("hexadecimal digits");
    let word = |word: &str| match word.split_once('*') {
        Some((digits, count)) => vec![byte(digits); count.parse().expect("a count")],
        None => (0..word.len() / 2).map(|at| byte(&word[2 * at..2 * at + 2])).collect(),
    };
    text.split_whitespace().flat_map(word).collect()
}

#[test]
fn bytes_survive_being_text() {
    let bytes = [&[1, 2, 0xff, 0xff][..], &[0x5a; 40], &[7, 7, 7], &[0; 15], &[9; 16], &[3; 17]].concat();
    assert_eq!(from_hex(&to_hex(&bytes)), bytes);
    assert_eq!(to_hex(&[[0x5a; 20].as_slice(), &[1]].concat()), "5a*20 01");
}
