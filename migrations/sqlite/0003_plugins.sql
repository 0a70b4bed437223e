-- Plugins: the registry, their secrets, what their attempts used, and the values that they keep.
--
-- Every change of the registry raises registry_revision in its transaction, so whoever has seen a revision sees all changes up to it.

create table registry_revision (
    one                   integer not null primary key check (one = 1),
    revision              integer not null check (revision >= 0)
) strict, without rowid;

insert into registry_revision (one, revision) values (1, 0);

-- One row a name, which is a task type. Those that have no owner are shared by all tenants.
create table plugins (
    name                  text    not null primary key,
    owner                 text,
    -- The registry's when this plugin, one of its versions or one of its secrets last changed.
    revision              integer not null check (revision >= 1),
    -- Grows whenever other versions run than before.
    phase                 integer not null check (phase >= 0),
    since                 integer,
    stable                blob    check (length(stable) = 16),
    previous              blob    check (length(previous) = 16),
    canary                blob    check (length(canary) = 16),
    canary_percent        integer check (canary_percent between 1 and 99),
    canary_min_attempts   integer check (canary_min_attempts >= 0),
    canary_failure_margin real    check (canary_failure_margin between 0.0 and 1.0),
    canary_latency_factor real    check (canary_latency_factor >= 1.0),
    paused                integer not null check (paused in (0, 1)),
    retired               integer not null check (retired in (0, 1)),

    check ((since is null) = (phase = 0)),
    check (phase > 0 or stable is null),
    check (canary is null or (stable is not null and canary <> stable)),
    check ((canary is null) = (canary_percent is null) and (canary is null) = (canary_min_attempts is null)
           and (canary is null) = (canary_failure_margin is null) and (canary is null) = (canary_latency_factor is null))
) strict, without rowid;

-- What a version is never changes after it was inserted; its settings (limits, grants, config) and its state do.
create table plugin_versions (
    id                    blob    not null primary key check (length(id) = 16),
    plugin                text    not null,
    version               text    not null,
    shape                 text    not null check (shape in ('handler', 'command', 'http')),
    digest                blob    not null check (length(digest) = 32),
    size                  integer not null check (size >= 0),
    summary               text    not null,
    -- JSON text, byte for byte.
    input_schema          text    not null,
    output_schema         text    not null,
    -- JSON arrays of names.
    capabilities          text    not null,
    imports               text    not null,
    exports               text    not null,
    -- JSON objects.
    limits                text    not null,
    grants                text    not null,
    config                text    not null,
    -- Ed25519, over the component's bytes.
    signature             blob    check (length(signature) = 64),
    state                 text    not null check (state in ('available', 'rolled_back', 'retired')),
    state_reason          text,
    pushed_by             text    not null,
    pushed_at             integer not null,

    unique (plugin, version),
    check ((state_reason is not null) = (state = 'rolled_back'))
) strict;

-- The bytes of components, once for all versions that are made of them.
create table plugin_components (
    digest                blob    not null primary key check (length(digest) = 32),
    bytes                 blob    not null
) strict;

-- Sealed with a key that the database never sees. A plugin's secrets may be there before it is.
create table plugin_secrets (
    plugin                text    not null,
    name                  text    not null,
    sealed                blob    not null,
    updated_at            integer not null,

    primary key (plugin, name)
) strict, without rowid;

-- Who did what to a plugin, in the order of seq.
create table plugin_events (
    seq                   integer not null primary key,
    plugin                text    not null,
    at                    integer not null,
    kind                  text    not null
                          check (kind in ('pushed', 'activated', 'canary_started', 'canary_stopped', 'rolled_back', 'paused', 'resumed',
                                          'retired', 'settings_changed', 'secret_set', 'secret_deleted')),
    -- Null where it concerns the plugin as a whole.
    version               text,
    who                   text    not null,
    detail                text    not null
) strict;

create index plugin_events_plugin on plugin_events (plugin, seq);

-- What the attempts of a version used in one phase: how often a value fell into a bucket, and the greatest of them. The numbers of attempts
-- and of failed ones have the bucket 0.
create table plugin_usage (
    version               blob    not null check (length(version) = 16),
    phase                 integer not null,
    metric                text    not null check (metric in ('attempts', 'failed', 'fuel', 'memory', 'wall_micros', 'output')),
    bucket                integer not null check (bucket between 0 and 65535),
    count                 integer not null check (count >= 0),
    max                   integer not null check (max >= 0),

    primary key (version, phase, metric, bucket),
    check (bucket = 0 or metric not in ('attempts', 'failed'))
) strict, without rowid;

-- What plugins keep, for each tenant apart. Buckets and keys are text, but kept as bytes, which may hold U+0000. The table has its rowid,
-- because values are too large for the inner pages of a tree.
create table plugin_values (
    tenant                text    not null,
    plugin                text    not null,
    bucket                blob    not null check (length(bucket) <= 255),
    key                   blob    not null check (length(key) <= 1024),
    value                 blob    not null,

    primary key (tenant, plugin, bucket, key)
) strict;

-- The sums over plugin_values, for the quota.
create table plugin_holdings (
    tenant                text    not null,
    plugin                text    not null,
    -- Of keys and values together.
    bytes                 integer not null check (bytes >= 0),
    keys                  integer not null check (keys >= 0),

    primary key (tenant, plugin)
) strict, without rowid;
