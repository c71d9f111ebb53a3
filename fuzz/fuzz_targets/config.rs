//! No file makes the configuration reader panic, nor that of policy tests, and every mistake can be shown.
#![no_main]

use std::path::Path;

use bearward::config::policy::PolicyFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: String| {
    if let Err(errors) = PolicyFile::load_text("policy.yaml", text.clone(), &|_| None) {
        assert!(errors.count() > 0 && !errors.to_string().is_empty());
    }
    if let Err(errors) = bearward::config::load_text("gateway.yaml", text, Path::new("/nonexistent"), &|_| None) {
        assert!(errors.count() > 0 && !errors.to_string().is_empty());
    }
});
