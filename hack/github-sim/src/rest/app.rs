//! The App itself and its hook.

use http::Method;
use serde_json::Value;

use super::{Access, Call, Reply, Route};
use crate::refusal::Refusal;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/app", "apps/apps#get-the-authenticated-app", Access::App, get),
    Route::on(Method::GET, "/apps/{app_slug}", "apps/apps#get-an-app", Access::Anyone, by_slug),
];

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    shape(call, call.app()?).and_then(Reply::ok)
}

fn by_slug(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = call.state.app_by_slug(call.parameter("app_slug")).ok_or_else(Refusal::not_found)?.id;
    let mut app = shape(call, id)?;
    if let Some(fields) = app.as_object_mut() {
        // Only the App itself gets the number of its installations.
        fields.remove("installations_count");
    }
    Reply::ok(app)
}

fn shape(call: &Call<'_>, id: u64) -> Result<Value, Refusal> {
    let app = call.state.apps.get(&id).ok_or_else(Refusal::not_found)?;
    Ok(shapes::app(call.state, app, &call.links()))
}
