//! The messages between the endpoint (gateway and supervisor) and a worker
//! process, and the framing that carries them.
//!
//! One worker hosts one model. The two sides speak length-prefixed JSON frames
//! over a Unix socket ([`frame`]); the first message each way is a `Hello` with
//! [`VERSION`], and a peer with another version is refused.
//!
//! This is the one internal request model: every wire dialect is translated to a
//! [`Job`] and every answer comes back as [`Event`]s. Fields mean what their
//! OpenAI namesakes mean unless the doc comment says otherwise.

pub mod calibrate;
pub mod compare;
pub mod control;
pub mod event;
pub mod frame;
pub mod job;
pub mod stream;

pub use calibrate::{
    BudgetFacts, CalibrateReport, CalibrateRequest, GainFacts, TensorFacts, TextFacts, TypeFacts,
    VerifyKind, VerifyRow,
};
pub use compare::{CompareKind, CompareReport, CompareRequest, CompareRow, DivergenceFacts};
pub use control::{
    BufferFacts, CacheType, DeviceFacts, DeviceKind, FlashAttention, FromWorker, GpuPlacement,
    Holds, Kernels, KvLayerFacts, KvUse, LoadFailure, LoadFailureKind, LoadSpec, ModelFacts,
    Placement, PrefixSettings, PrefixUse, SlotPhase, SlotState, ToWorker, WorkerState,
};
pub use event::{
    Delta, Event, FailureKind, FinishReason, JobFailure, PrefixCause, PrefixDetail, PrefixReport,
    SamplingValues, Timings, TokenLogprob, TopLogprob, UpstreamFault, Usage,
};
pub use job::{
    ChatJob, CompletionJob, Constraint, EmbeddingInput, EmbeddingJob, Generation, Image, Job,
    Message, Prompt, Reasoning, Role, SamplingOverrides, Speculation, ToolCall, ToolChoice,
    ToolDefinition,
};
pub use stream::{StreamReport, StreamRequest, StreamRow};

/// Version of the message set. Bump on any change a peer of the old version would misread.
pub const VERSION: u32 = 1;

/// Names one job on one worker connection; chosen by the endpoint, unique per connection.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub u64);
