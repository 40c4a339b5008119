//! Plans to bytes and back, and every kind of damage.

use ccl_ir::plan::{MAGIC, Plan, VERSION};

use crate::build::*;

/// Size of the header in front of the body.
pub const HEADER: usize = 52;

/// A file with an undamaged header around any body.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((body.len() as u64).to_le_bytes());
    out.extend(blake3::hash(body).as_bytes());
    out.extend(body);
    out
}

fn refusal(bytes: &[u8]) -> String {
    let error = Plan::from_bytes(bytes).expect_err("damaged bytes are read").to_string();
    assert!(!error.contains(char::is_control) && error.starts_with("plan: "), "{error:?}");
    error
}

#[test]
fn round_trip() {
    let p = small();
    let bytes = p.to_bytes().unwrap();
    assert_eq!(Plan::from_bytes(&bytes).unwrap(), p);
    assert_eq!(bytes, p.clone().to_bytes().unwrap(), "equal plans, equal bytes");
    assert_eq!(bytes, Plan::from_bytes(&bytes).unwrap().to_bytes().unwrap());
    assert_eq!(bytes, sealed(&bytes[HEADER..]), "the layout is the documented one");
}

#[test]
fn the_order_of_configuration_keys_does_not_reach_the_bytes() {
    let (mut a, mut b) = (small(), small());
    a.about.config = serde_json::from_str(r#"{"x": 1, "a": {"z": 2.5, "b": 3}}"#).unwrap();
    b.about.config = serde_json::from_str(r#"{"a": {"b": 3, "z": 2.5}, "x": 1}"#).unwrap();
    assert_eq!(a, b);
    assert_eq!(a.to_bytes(), b.to_bytes());
}

#[test]
fn floats_keep_every_bit() {
    let mut p = small();
    let values = [0.1 + 0.2, 1e-6, f64::MIN_POSITIVE, 5e-324, f64::MAX, -0.0, 1.0 / 3.0, 123456789.12345679];
    for value in values {
        let op = ccl_ir::ops::Constant { ty: ccl_ir::TensorType::f32([2, 8]), value };
        step(&mut p)[0] = call(op, &[], &[buffer(b::ROW, &[2, 8])]);
        let back = Plan::from_bytes(&p.to_bytes().unwrap()).unwrap();
        match &back.calls(ccl_ir::Binding::Step)[0].op {
            ccl_ir::Op::Constant(c) => assert_eq!(c.value.to_bits(), value.to_bits()),
            other => panic!("{other:?}"),
        }
    }
    let op = ccl_ir::ops::Constant { ty: ccl_ir::TensorType::f32([2, 8]), value: f64::NAN };
    step(&mut p)[0] = call(op, &[], &[buffer(b::ROW, &[2, 8])]);
    assert!(p.to_bytes().is_err(), "JSON has no NaN: such a plan is not written");
}

#[test]
fn every_changed_byte_is_found() {
    let mut bytes = small().to_bytes().unwrap();
    for i in 0..bytes.len() {
        for mask in [0x01, 0x20, 0x80, 0xff] {
            bytes[i] ^= mask;
            refusal(&bytes);
            bytes[i] ^= mask;
        }
    }
}

#[test]
fn every_other_length_is_found() {
    let mut bytes = small().to_bytes().unwrap();
    for n in 0..bytes.len() {
        assert!(refusal(&bytes[..n]).contains("the file is cut off"), "{n} bytes");
    }
    bytes.push(b' ');
    assert!(refusal(&bytes).contains("1 bytes too many"));
}

#[test]
fn each_damage_has_its_message() {
    let good = small().to_bytes().unwrap();
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        refusal(&bytes)
    };
    assert!(changed(0, b"PK\x03\x04").contains("does not start with `CCLPLAN`"));
    assert!(refusal(b"{}").contains("does not start with"));
    assert!(refusal(b"").contains("0 bytes, the header alone has 52"));
    assert!(refusal(&good[..51]).contains("51 bytes, the header alone has 52"));
    let other = format!("made by plan format 3, this program reads {VERSION}: compile the plan again");
    assert!(changed(8, &3u32.to_le_bytes()).contains(&other));
    assert!(changed(12, &u64::MAX.to_le_bytes()).contains("the file is cut off"));
    assert!(changed(12, &1u64.to_le_bytes()).contains("bytes too many"));
    assert!(changed(20, &[0; 32]).contains("its hash differs"));
    assert!(changed(HEADER, b"[").contains("its hash differs"));
}

#[test]
fn a_sealed_body_that_is_no_plan() {
    let good = small().to_bytes().unwrap();
    let text = std::str::from_utf8(&good[HEADER..]).unwrap();
    for body in
        ["", "null", "{}", "[1, 2]", "{\"about\": \"x\\ny\"}", "\u{0}", &text[..text.len() - 1], &format!("{text} x")]
    {
        assert!(refusal(&sealed(body.as_bytes())).contains("the contents describe no plan"), "{body}");
    }
    let deep = "[".repeat(100_000);
    assert!(refusal(&sealed(deep.as_bytes())).contains("the contents describe no plan"));
    assert!(refusal(&sealed(&[0xff, 0xfe])).contains("the contents describe no plan"));
    let swapped = |from: &str, to: &str| {
        assert!(text.contains(from), "the plan has `{from}`");
        refusal(&sealed(text.replacen(from, to, 1).as_bytes()))
    };
    assert!(swapped("\"op\":\"binary\"", "\"op\":\"no\\nsuch\"").contains("unknown variant `no\\nsuch`"));
    assert!(swapped("\"dtype\":\"i32\"", "\"dtype\":\"f64\"").contains("unknown variant `f64`"));
    assert!(swapped("\"scratch_bytes\":832", "\"scratch_bytes\":-1").contains("invalid value"));
    assert!(swapped("\"scratch_bytes\":832", "\"scratch_bytes\":1e99").contains("invalid type"));
    assert!(swapped("\"offset\":1792", "\"offset\":1793").contains("not aligned"), "what is read is checked");
}
