//! What the OpenAPI document says about one request.

use std::collections::BTreeMap;

use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema};
use utoipa::openapi::{Ref, RefOr, Required};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::refusal::status_of;
use crate::api::{ErrorBody, ErrorCode};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Schemas by their names.
pub(super) type Named = Vec<(String, RefOr<Schema>)>;

/// What the document says about one request.
pub(super) struct Operation {
    pub(super) id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    bodies: Vec<(&'static str, Content)>,
    answers: Vec<(&'static str, Content)>,
    fails: Vec<ErrorCode>,
    pub(super) schemas: Named,
}

impl Operation {
    /// A request that cannot fail, has no parameters and no answer yet.
    pub(super) fn new(id: &'static str, summary: &'static str) -> Self {
        let (parameters, bodies, answers) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, summary, parameters, bodies, answers, fails: Vec::new(), schemas: Vec::new() }
    }

    /// It has the query `Q`, which may be malformed.
    pub(super) fn query<Q: IntoParams>(mut self) -> Self {
        self.parameters.extend(Q::into_params(|| Some(ParameterIn::Query)));
        self.fails(&[ErrorCode::Malformed])
    }

    /// Its path has the parameters `P`, which may be malformed.
    pub(super) fn at<P: IntoParams>(mut self) -> Self {
        self.parameters.extend(P::into_params(|| Some(ParameterIn::Path)));
        self.fails(&[ErrorCode::Malformed])
    }

    /// It takes a `T` as JSON.
    pub(super) fn takes<T: ToSchema>(mut self) -> Self {
        let content = Content::new(Some(self.known::<T>()));
        self.bodies.push((JSON, content));
        self.fails(&[ErrorCode::Malformed, ErrorCode::TooLarge, ErrorCode::Busy])
    }

    /// It takes text, such as `example`.
    pub(super) fn takes_text(mut self, example: &'static str) -> Self {
        let content = ContentBuilder::new().schema(Some(String::schema())).example(Some(example.into()));
        self.bodies.push((TEXT, content.build()));
        self.fails(&[ErrorCode::Malformed, ErrorCode::TooLarge, ErrorCode::Busy])
    }

    /// It is answered with a `T`.
    pub(super) fn answers<T: ToSchema>(mut self) -> Self {
        let content = Content::new(Some(self.known::<T>()));
        self.answers.push((JSON, content));
        self
    }

    /// It is answered with any number of `T`.
    pub(super) fn answers_list<T: ToSchema>(mut self) -> Self {
        let list = ArrayBuilder::new().items(self.known::<T>());
        self.answers.push((JSON, Content::new(Some(list))));
        self
    }

    /// It is answered with text.
    pub(super) fn answers_text(self) -> Self {
        self.answers_as(TEXT)
    }

    /// It is answered with a document of another kind.
    pub(super) fn answers_as(mut self, kind: &'static str) -> Self {
        let schema = if kind == JSON { ObjectBuilder::new().into() } else { String::schema() };
        self.answers.push((kind, Content::new(Some(schema))));
        self
    }

    /// It may be refused for these reasons.
    pub(super) fn fails(mut self, codes: &[ErrorCode]) -> Self {
        self.fails.extend(codes);
        self
    }

    /// A reference to the schema of `T`, which comes into the document with all that it refers to.
    fn known<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }

    fn body(&self) -> Option<RequestBody> {
        let body = RequestBodyBuilder::new().required(Some(Required::True));
        let add = |body: RequestBodyBuilder, (kind, content): &(&str, Content)| {
            body.content(*kind, content.clone())
        };
        (!self.bodies.is_empty()).then(|| self.bodies.iter().fold(body, add).build())
    }

    fn answer(&self) -> Response {
        let answer = ResponseBuilder::new().description("Done");
        let add = |answer: ResponseBuilder, (kind, content): &(&str, Content)| {
            answer.content(*kind, content.clone())
        };
        self.answers.iter().fold(answer, add).build()
    }

    /// The responses for errors, one for each status.
    fn errors(&self) -> BTreeMap<u16, Response> {
        let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for code in &self.fails {
            let names = codes.entry(status_of(*code).as_u16()).or_default();
            if !names.contains(&code.name()) {
                names.push(code.name());
            }
        }
        let body = || Content::new(Some(Ref::from_schema_name(ErrorBody::name())));
        let error =
            |names: Vec<&str>| ResponseBuilder::new().description(names.join(", ")).content(JSON, body());
        codes.into_iter().map(|(status, names)| (status, error(names).build())).collect()
    }

    pub(super) fn build(&self) -> OperationBuilder {
        let operation = OperationBuilder::new()
            .operation_id(Some(self.id))
            .summary(Some(self.summary))
            .parameters(Some(self.parameters.clone()))
            .request_body(self.body())
            .response("200", self.answer());
        let errors = self.errors().into_iter();
        errors.fold(operation, |operation, (status, error)| operation.response(status.to_string(), error))
    }
}
