//! Which fleet this is.

use sqlx::PgConnection;
use taskforge_domain::FleetId;

use super::fault::Attempted;

/// One row, made with the table.
const ID: &str = "select id from fleet";

pub(super) async fn id(connection: &mut PgConnection) -> Attempted<FleetId> {
    let id = sqlx::query_scalar(ID).fetch_one(connection).await?;
    Ok(FleetId::from_uuid(id))
}
