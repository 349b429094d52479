use super::*;
#[test]
fn examples_load() {
    for (name, text) in [
        ("haltline.toml", include_str!("../../../config/haltline.toml")),
        ("demo.toml", include_str!("../../../config/demo.toml")),
    ] {
        match load(name, text) {
            Ok(loaded) => println!("{name}: {:#?}", loaded.notes),
            Err(v) => panic!("{v}"),
        }
    }
}
