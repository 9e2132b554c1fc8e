//! The Python face of the node: converts, decides nothing. Described by `_core.pyi`.

mod actions;
mod core;
mod events;
mod operations;
mod tools;
mod values;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Many small allocations on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives back to the system what the allocator keeps for this thread.
fn trim() {
    #[allow(
        unsafe_code,
        reason = "the allocator's own function, which asks for nothing"
    )]
    // SAFETY: may be called at any time by any thread; it looks at the calling thread's heap.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

create_exception!(antiphon._core, JidError, PyValueError);
create_exception!(antiphon._core, ConfigError, PyValueError);

#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("DIGEST", env!("ANTIPHON_DIGEST"))?;
    m.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    m.add("JidError", py.get_type::<JidError>())?;
    m.add("ConfigError", py.get_type::<ConfigError>())?;
    m.add_class::<values::Jid>()?;
    m.add_class::<values::Element>()?;
    m.add_class::<values::Stanza>()?;
    m.add_class::<events::HttpRequest>()?;
    m.add_class::<core::Core>()?;
    events::register(m)?;
    actions::register(m)?;
    m.add("OPERATIONS", operations::names(py)?)?;
    m.add_function(wrap_pyfunction!(tools::toml_positions, m)?)?;
    m.add_function(wrap_pyfunction!(tools::derive_keys, m)?)?;
    m.add_function(wrap_pyfunction!(tools::self_signed, m)?)?;
    m.add_function(wrap_pyfunction!(tools::certificate_names, m)?)?;
    m.add_function(wrap_pyfunction!(tools::conditions, m)?)?;
    Ok(())
}
