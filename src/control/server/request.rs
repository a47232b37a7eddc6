//! What a line of the table of requests consists of, and the router that the lines make.
//!
//! A [`Request`] holds a path, a method, its handler, and what the OpenAPI document says about it.
//! The lists of paths and methods that clients are told of are made from the same lines.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::Api;
use super::operation::Operation;
use super::refusal::respond;
use crate::api::ErrorCode;

/// The methods of the API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    /// `GET`, and with it `HEAD`.
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
}

impl Verb {
    /// The word in a request line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// What is called for a request.
type Answer<B> = MethodRouter<Arc<Api<B>>, Infallible>;

/// A line of the table.
pub(super) struct Request<B> {
    /// The path, with its parameters in braces.
    pub(super) path: &'static str,
    /// The method.
    pub(super) verb: Verb,
    /// What the OpenAPI document says.
    pub(super) about: Operation,
    answer: Answer<B>,
}

impl<B: Send + Sync + 'static> Request<B> {
    /// `handler` answers `verb` at `path`.
    pub(super) fn new<H, T>(verb: Verb, path: &'static str, handler: H, about: Operation) -> Self
    where
        H: Handler<T, Arc<Api<B>>>,
        T: 'static,
    {
        Self { path, verb, about, answer: on(verb.filter(), handler) }
    }
}

/// The lines of `table` with the same path, in the order of their first ones.
pub(super) fn by_path<B>(table: Vec<Request<B>>) -> Vec<(&'static str, Vec<Request<B>>)> {
    let mut paths: Vec<(&'static str, Vec<Request<B>>)> = Vec::new();
    for request in table {
        match paths.iter_mut().find(|(path, _)| *path == request.path) {
            Some((_, requests)) => requests.push(request),
            None => paths.push((request.path, vec![request])),
        }
    }
    paths
}

/// The router of `table`: its handlers, and what other paths and methods are answered with.
pub(super) fn router<B: Send + Sync + 'static>(table: Vec<Request<B>>) -> Router<Arc<Api<B>>> {
    let paths = by_path(table);
    let known = paths.iter().map(|(path, _)| *path).collect::<Vec<_>>().join(", ");
    let unknown = move |uri: Uri| {
        let text = format!("no such path: {}; there are {known}", uri.path());
        std::future::ready(respond(ErrorCode::UnknownPath, text, Vec::new()))
    };
    let paths = paths.into_iter().map(|(path, requests)| (path, answer(requests)));
    paths.fold(Router::new(), |router, (path, answer)| router.route(path, answer)).fallback(unknown)
}

/// What answers at one path.
fn answer<B: Send + Sync + 'static>(requests: Vec<Request<B>>) -> Answer<B> {
    let verbs: Vec<Verb> = requests.iter().map(|request| request.verb).collect();
    let refuse = move |method: Method, uri: Uri| std::future::ready(not_allowed(&verbs, &method, uri.path()));
    let answers = requests.into_iter().map(|request| request.answer);
    answers.fold(MethodRouter::new(), MethodRouter::merge).fallback(refuse)
}

fn not_allowed(verbs: &[Verb], method: &Method, path: &str) -> Response {
    let names: Vec<&str> = verbs.iter().map(|verb| verb.name()).collect();
    let methods = match &names[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    };
    let text = format!("{path} does not take {method}; use {methods}");
    let mut response = respond(ErrorCode::MethodNotAllowed, text, Vec::new()).into_response();
    if let Ok(allowed) = HeaderValue::from_str(&allowed(verbs)) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// The value of `Allow`. Every `GET` is answered as `HEAD` as well.
fn allowed(verbs: &[Verb]) -> String {
    let names = verbs.iter().flat_map(|verb| match verb {
        Verb::Get => &["GET", "HEAD"][..],
        Verb::Post => &["POST"],
        Verb::Put => &["PUT"],
        Verb::Delete => &["DELETE"],
    });
    names.copied().collect::<Vec<_>>().join(", ")
}
