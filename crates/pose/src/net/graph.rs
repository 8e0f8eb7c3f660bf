//! A convolutional network as a value: what each step does, to what, under which name its weights stand in a checkpoint.
//!
//! The description is written once, by the network's own file, and read by all who need it: the weights that it asks for
//! ([`layers`](super::layers)), the order of its arithmetic ([`run`](super::run)) and the comparison with a graph that
//! somebody else exported ([`onnx`](super::onnx)).

use kernels::conv2d::Activation;

/// The result of a step, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value(usize);

impl Value {
    /// Number of the step whose result it is.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A convolution with zero padding of half its kernel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conv {
    /// The module's name in the checkpoint.
    pub name: String,
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Each channel alone.
    pub depthwise: bool,
    /// A batch norm of this epsilon follows, under `bn` beside `conv`; else the convolution has a bias of its own.
    pub norm: Option<f64>,
    pub activation: Activation,
}

impl Conv {
    /// Shape of the weight, `[O, I, k, k]`.
    pub fn weight_dims(&self) -> [usize; 4] {
        let in_channels = if self.depthwise { 1 } else { self.in_channels };
        [self.out_channels, in_channels, self.kernel, self.kernel]
    }
}

/// Channels of a convolution's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    pub value: Value,
    /// Every pixel is repeated 2×2.
    pub doubled: bool,
}

impl From<Value> for Piece {
    fn from(value: Value) -> Self {
        Self { value, doubled: false }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// `[B, H, W, 3]`, given from outside.
    Picture,
    /// Pixels of each 2×2 square side by side, columns before rows: (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
    Focus(Value),
    /// A convolution of the pieces side by side, their channels multiplied by `gate`; `residual` is added at the end.
    Conv { conv: Conv, pieces: Vec<Piece>, gate: Option<Value>, residual: Option<Value> },
    /// The largest value in a window of `size`; `inner`, if any, is the same with a window smaller by four.
    Pool { of: Value, size: usize, inner: Option<Value> },
    /// Factors of the channels of `of` side by side: `hardsigmoid(fc(mean over pixels))`, `[B, C]`.
    Gate { fc: Conv, of: Vec<Value> },
}

impl Op {
    /// The convolution of the step, which is what has weights.
    pub fn conv(&self) -> Option<&Conv> {
        match self {
            Op::Conv { conv, .. } | Op::Gate { fc: conv, .. } => Some(conv),
            Op::Picture | Op::Focus(_) | Op::Pool { .. } => None,
        }
    }

    /// What the step uses.
    pub fn inputs(&self) -> Vec<Value> {
        match self {
            Op::Picture => Vec::new(),
            Op::Focus(of) => vec![*of],
            Op::Conv { pieces, gate, residual, .. } => {
                pieces.iter().map(|p| p.value).chain(*gate).chain(*residual).collect()
            }
            Op::Pool { of, inner, .. } => vec![inner.unwrap_or(*of)],
            Op::Gate { of, .. } => of.clone(),
        }
    }
}

/// A network of such steps, each after those it uses; step 0 is the picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    pub ops: Vec<Op>,
    pub outputs: Vec<Value>,
}

impl Graph {
    /// All convolutions in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.ops.iter().filter_map(Op::conv)
    }
}

/// Makes a [`Graph`] step by step.
pub(crate) struct Builder {
    ops: Vec<Op>,
    channels: Vec<usize>,
    eps: f64,
}

/// What a convolution does, apart from its name and inputs.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub out_channels: usize,
    pub size: usize,
    pub stride: usize,
}

impl Kernel {
    /// At stride 1.
    pub fn new(out_channels: usize, size: usize) -> Self {
        Self { out_channels, size, stride: 1 }
    }

    /// 3×3 at stride 2.
    pub fn down(out_channels: usize) -> Self {
        Self { out_channels, size: 3, stride: 2 }
    }
}

impl Builder {
    /// A network whose batch norms have this epsilon.
    pub fn new(eps: f64) -> Self {
        Self { ops: vec![Op::Picture], channels: vec![3], eps }
    }

    fn push(&mut self, op: Op, channels: usize) -> Value {
        self.ops.push(op);
        self.channels.push(channels);
        Value(self.ops.len() - 1)
    }

    /// The picture.
    pub fn picture(&self) -> Value {
        Value(0)
    }

    /// Channels of a value.
    pub fn channels(&self, value: Value) -> usize {
        self.channels[value.0]
    }

    /// Pixels of 2×2 squares side by side.
    pub fn focus(&mut self, of: Value) -> Value {
        self.push(Op::Focus(of), 4 * self.channels(of))
    }

    fn conv(&self, name: String, kernel: Kernel, in_channels: usize) -> Conv {
        let Kernel { out_channels, size, stride } = kernel;
        let (norm, activation) = (Some(self.eps), Activation::Silu);
        Conv { name, in_channels, out_channels, kernel: size, stride, depthwise: false, norm, activation }
    }

    /// Convolution, batch norm, SiLU.
    pub fn norm_conv(&mut self, name: impl Into<String>, kernel: Kernel, pieces: &[Piece]) -> Value {
        self.gated_conv(name, kernel, pieces, None)
    }

    /// The same of channels multiplied by a gate.
    pub fn gated_conv(
        &mut self,
        name: impl Into<String>,
        kernel: Kernel,
        pieces: &[Piece],
        gate: Option<Value>,
    ) -> Value {
        let in_channels = pieces.iter().map(|p| self.channels(p.value)).sum();
        let conv = self.conv(name.into(), kernel, in_channels);
        self.push(Op::Conv { conv, pieces: pieces.to_vec(), gate, residual: None }, kernel.out_channels)
    }

    /// Convolution, batch norm, SiLU with as many channels out as in; then `residual`, if any, is added.
    pub fn same_width_conv(&mut self, name: String, size: usize, of: Value, residual: Option<Value>) -> Value {
        let channels = self.channels(of);
        let conv = self.conv(name, Kernel::new(channels, size), channels);
        self.push(Op::Conv { conv, pieces: vec![of.into()], gate: None, residual }, channels)
    }

    /// Every channel alone, batch norm, SiLU.
    pub fn depthwise_conv(&mut self, name: String, size: usize, of: Value) -> Value {
        let channels = self.channels(of);
        let conv = Conv { depthwise: true, ..self.conv(name, Kernel::new(channels, size), channels) };
        self.push(Op::Conv { conv, pieces: vec![of.into()], gate: None, residual: None }, channels)
    }

    /// A convolution with a bias, nothing behind it.
    pub fn plain_conv(&mut self, name: impl Into<String>, kernel: Kernel, of: Value) -> Value {
        let conv = self.conv(name.into(), kernel, self.channels(of));
        let conv = Conv { norm: None, activation: Activation::Identity, ..conv };
        self.push(Op::Conv { conv, pieces: vec![of.into()], gate: None, residual: None }, kernel.out_channels)
    }

    /// Factors of the channels of `of`, from their means.
    pub fn gate(&mut self, name: String, of: &[Value]) -> Value {
        let channels = of.iter().map(|v| self.channels(*v)).sum();
        let conv = self.conv(name, Kernel::new(channels, 1), channels);
        let fc = Conv { norm: None, activation: Activation::Identity, ..conv };
        self.push(Op::Gate { fc, of: of.to_vec() }, channels)
    }

    /// Largest values in windows of 5, 9 and 13.
    pub fn pools(&mut self, of: Value) -> [Value; 3] {
        let channels = self.channels(of);
        let mut inner = None;
        [5, 9, 13].map(|size| {
            let pool = self.push(Op::Pool { of, size, inner }, channels);
            inner = Some(pool);
            pool
        })
    }

    /// The network that gives these values.
    pub fn finish(self, outputs: Vec<Value>) -> Graph {
        Graph { ops: self.ops, outputs }
    }
}
