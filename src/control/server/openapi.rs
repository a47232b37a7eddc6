//! The OpenAPI document: what the table of requests says about itself, with the schemas of the types
//! in `api`.

use utoipa::openapi::info::InfoBuilder;
use utoipa::openapi::path::{HttpMethod, PathItem, PathsBuilder};
use utoipa::openapi::schema::ComponentsBuilder;
use utoipa::openapi::{OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::operation::Named;
use super::request::{Request, Verb};
use crate::api::ErrorBody;

/// The document of the requests in `table`.
pub(super) fn document<B>(table: &[Request<B>]) -> OpenApi {
    let item = |request: &Request<B>| PathItem::new(method(request.verb), request.about.build());
    let paths =
        table.iter().fold(PathsBuilder::new(), |paths, request| paths.path(request.path, item(request)));
    let mut schemas: Named = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    schemas.extend(table.iter().flat_map(|request| request.about.schemas.clone()));
    let info = InfoBuilder::new()
        .title("The control API of underpass")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "HTTP on a Unix socket. Fields are only ever added; ignore those you do not know.",
        ));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(ComponentsBuilder::new().schemas_from_iter(schemas).build()))
        .build()
}

const fn method(verb: Verb) -> HttpMethod {
    match verb {
        Verb::Get => HttpMethod::Get,
        Verb::Post => HttpMethod::Post,
        Verb::Put => HttpMethod::Put,
        Verb::Delete => HttpMethod::Delete,
    }
}
