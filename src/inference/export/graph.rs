//! Writes ONNX graphs: the few messages of `onnx.proto` (IR version 10) that a transformer needs.
//!
//! Fields are written in ascending order and nothing depends on hashing or time, so equal input gives equal bytes.

use std::collections::BTreeSet;

const IR_VERSION: u64 = 10;
const OPSET: u64 = 21;
const CONTRIB_DOMAIN: &str = "com.microsoft";

/// Element types by their number in `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    I32 = 6,
    I64 = 7,
}

/// A node's attribute.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute<'a> {
    Int(&'a str, i64),
    Float(&'a str, f32),
    /// A tensor of one unsigned byte.
    ByteTensor(&'a str, u8),
}

/// A tensor that goes in or out of the graph; a `None` dimension is free.
pub(super) struct Port<'a> {
    pub name: &'a str,
    pub element: Element,
    pub dims: &'a [(&'a str, Option<usize>)],
}

/// A graph under construction. Values are known by name; each node names its own single output.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Message,
    initializers: Message,
    named: BTreeSet<String>,
    counter: usize,
}

impl Graph {
    /// Adds a node of the standard operator set and returns the name of its output.
    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> String {
        self.add_node(("", op), inputs, attributes)
    }

    /// Adds a node of ONNX Runtime's own operators and returns the name of its output.
    pub fn contrib(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> String {
        self.add_node((CONTRIB_DOMAIN, op), inputs, attributes)
    }

    /// Gives a value the name under which it leaves the graph.
    pub fn output(&mut self, value: &str, name: &str) {
        let mut node = Message::default();
        node.text(1, value);
        node.text(2, name);
        node.text(4, "Identity");
        self.nodes.message(1, &node);
    }

    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = || values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, (Element::F32, dims), bytes)
    }

    pub fn integers(&mut self, name: &str, dims: &[usize], values: &[i64]) -> String {
        let bytes = || values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, (Element::I64, dims), bytes)
    }

    pub fn signed_bytes(&mut self, name: &str, dims: &[usize], values: &[i8]) -> String {
        let bytes = || values.iter().map(|value| value.cast_unsigned()).collect();
        self.constant(name, (Element::I8, dims), bytes)
    }

    pub fn byte(&mut self, name: &str, value: u8) -> String {
        self.constant(name, (Element::U8, &[]), || vec![value])
    }

    /// The whole model, as a file's bytes.
    pub fn into_model(self, inputs: &[Port<'_>], outputs: &[Port<'_>]) -> Vec<u8> {
        let mut graph = self.nodes;
        graph.text(2, "plumb");
        graph.0.extend_from_slice(&self.initializers.0);
        inputs.iter().for_each(|port| graph.message(11, &port.message()));
        outputs.iter().for_each(|port| graph.message(12, &port.message()));
        let mut model = Message::default();
        model.number(1, IR_VERSION);
        model.text(2, "plumb");
        model.message(7, &graph);
        for (domain, version) in [("", OPSET), (CONTRIB_DOMAIN, 1)] {
            let mut opset = Message::default();
            opset.text(1, domain);
            opset.number(2, version);
            model.message(8, &opset);
        }
        model.0
    }

    fn add_node(&mut self, (domain, op): (&str, &str), inputs: &[&str], attributes: &[Attribute<'_>]) -> String {
        self.counter += 1;
        let output = format!("{op}_{}", self.counter);
        let mut node = Message::default();
        inputs.iter().for_each(|input| node.text(1, input));
        node.text(2, &output);
        node.text(3, &output);
        node.text(4, op);
        attributes.iter().for_each(|attribute| node.message(5, &attribute.message()));
        node.text(7, domain);
        self.nodes.message(1, &node);
        output
    }

    // A name that is known already stands for the same tensor.
    fn constant(
        &mut self,
        name: &str,
        (element, dims): (Element, &[usize]),
        bytes: impl FnOnce() -> Vec<u8>,
    ) -> String {
        if self.named.insert(name.to_owned()) {
            self.initializers.message(5, &tensor(name, element, dims, &bytes()));
        }
        name.to_owned()
    }
}

impl Port<'_> {
    fn message(&self) -> Message {
        let mut shape = Message::default();
        for (name, size) in self.dims {
            let mut dim = Message::default();
            match size {
                Some(size) => dim.number(1, *size as u64),
                None => dim.text(2, name),
            }
            shape.message(1, &dim);
        }
        let mut tensor_type = Message::default();
        tensor_type.number(1, self.element as u64);
        tensor_type.message(2, &shape);
        let mut kind = Message::default();
        kind.message(1, &tensor_type);
        let mut port = Message::default();
        port.text(1, self.name);
        port.message(2, &kind);
        port
    }
}

impl Attribute<'_> {
    fn message(&self) -> Message {
        let mut message = Message::default();
        match *self {
            Self::Float(name, value) => {
                message.text(1, name);
                message.float(2, value);
                message.number(20, 1);
            }
            Self::Int(name, value) => {
                message.text(1, name);
                message.number(3, value.cast_unsigned());
                message.number(20, 2);
            }
            Self::ByteTensor(name, value) => {
                message.text(1, name);
                message.message(5, &tensor("", Element::U8, &[1], &[value]));
                message.number(20, 4);
            }
        }
        message
    }
}

fn tensor(name: &str, element: Element, dims: &[usize], bytes: &[u8]) -> Message {
    let mut tensor = Message::default();
    dims.iter().for_each(|dim| tensor.number(1, *dim as u64));
    tensor.number(2, element as u64);
    tensor.text(8, name);
    tensor.bytes(9, bytes);
    tensor
}

/// A protocol buffers message in wire format.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u64, value: &Message) {
        self.bytes(field, &value.0);
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_wire_format_says() {
        // The example of the protocol buffers documentation: field 1 with the value 150.
        let mut message = Message::default();
        message.number(1, 150);
        assert_eq!(message.0, [0x08, 0x96, 0x01]);

        let mut message = Message::default();
        message.text(2, "testing");
        assert_eq!(message.0, [0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g']);
    }

    #[test]
    fn a_constant_is_written_once() {
        let mut graph = Graph::default();
        graph.floats("w", &[2], &[1.0, 2.0]);
        let once = graph.initializers.0.len();
        graph.floats("w", &[2], &[1.0, 2.0]);

        assert_eq!(graph.initializers.0.len(), once);
    }
}
