//! `Core`: the node as one Python object.

use crate::ConfigError;
use crate::{actions, events};
use antiphon_node as node;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PySequence, PyTuple};
use std::time::Duration;

#[pyclass(frozen, module = "antiphon._core")]
pub struct Core(node::Core);

fn config_error(error: node::ConfigError) -> PyErr {
    ConfigError::new_err(error.to_string())
}

#[pymethods]
impl Core {
    #[new]
    fn new(config: &str) -> PyResult<Self> {
        let core = node::Core::new(config).map_err(config_error)?;
        Ok(Self(core.trimmed_by(crate::trim)))
    }
    fn start(&self, py: Python<'_>) -> PyResult<i32> {
        py.detach(|| self.0.start()).map_err(config_error)?;
        Ok(self.0.bridge().descriptor())
    }
    #[pyo3(signature = (limit = 256))]
    fn drain<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for event in self.0.bridge().drain(limit) {
            list.append(events::event(py, event)?)?;
        }
        Ok(list)
    }
    fn submit(&self, actions: &Bound<'_, PySequence>) -> PyResult<()> {
        let Some(node) = self.0.node() else {
            return Err(PyRuntimeError::new_err("the node is not running"));
        };
        for action in actions.try_iter()? {
            actions::carry_out(&node, action?.cast::<PyTuple>()?)?;
        }
        Ok(())
    }
    fn reload(&self, py: Python<'_>, config: &str) -> PyResult<()> {
        py.detach(|| self.0.reload(config)).map_err(config_error)
    }
    fn stop_accepting(&self, py: Python<'_>) {
        py.detach(|| self.0.stop_accepting());
    }
    fn stop(&self, py: Python<'_>, deadline_s: f64) {
        let seconds = if deadline_s.is_nan() { 0.0 } else { deadline_s };
        let deadline = Duration::from_secs_f64(seconds.clamp(0.0, 3600.0));
        py.detach(|| self.0.stop(deadline));
    }
    fn cluster_status(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.cluster_status())
    }
    fn cluster_home(&self, jid: &str) -> Option<String> {
        self.0.cluster_home(jid)
    }
    fn cluster_drain(&self, py: Python<'_>) {
        py.detach(|| self.0.cluster_drain());
    }
    fn cluster_stay(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.cluster_stay())
    }
    fn cluster_rebalance(&self, py: Python<'_>) -> Option<(usize, usize, usize, bool)> {
        let outlook = py.detach(|| self.0.cluster_outlook())?;
        let (least, most) = outlook.shares;
        Some((outlook.moving, least, most, outlook.is_waiting))
    }
    fn crossings(&self) -> u64 {
        self.0.bridge().crossings()
    }
    fn metrics(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.metrics())
    }
    fn addresses(&self) -> Vec<(&'static str, String)> {
        self.0.addresses()
    }
}
