-- Plugins: the registry that every process of the fleet follows, their secrets, what their attempts used, and the values that they keep.
--
-- Every change of the registry raises registry_revision first. That row's lock puts changes one after the other, so whoever has seen a
-- revision sees all changes up to it, and events are in the order in which they happened.

-- One row.
create table registry_revision (
    one                   integer  not null primary key check (one = 1),
    revision              bigint   not null check (revision >= 0)
) with (fillfactor = 50);

insert into registry_revision (one, revision) values (1, 0);

-- One row a name, which is a task type. Those that have no owner are shared by all tenants.
create table plugins (
    name                  text     collate "C" not null primary key,
    owner                 text     collate "C",
    -- The registry's when this plugin, one of its versions or one of its secrets last changed.
    revision              bigint   not null check (revision >= 1),
    -- Grows whenever other versions run than before.
    phase                 bigint   not null check (phase >= 0),
    since                 bigint,
    stable                uuid,
    previous              uuid,
    canary                uuid,
    canary_percent        smallint check (canary_percent between 1 and 99),
    canary_min_attempts   bigint   check (canary_min_attempts >= 0),
    canary_failure_margin double precision check (canary_failure_margin between 0.0 and 1.0),
    canary_latency_factor double precision check (canary_latency_factor >= 1.0),
    paused                boolean  not null,
    retired               boolean  not null,

    constraint plugins_since check ((since is null) = (phase = 0)),
    constraint plugins_runs check (phase > 0 or stable is null),
    constraint plugins_trial check (canary is null or (stable is not null and canary <> stable)),
    constraint plugins_canary check (num_nulls(canary, canary_percent, canary_min_attempts, canary_failure_margin, canary_latency_factor)
                                     in (0, 5))
);

-- What a version is never changes after it was inserted; its settings (limits, grants, config) and its state do.
create table plugin_versions (
    id                    uuid     not null primary key,
    plugin                text     collate "C" not null,
    version               text     collate "C" not null,
    shape                 text     collate "C" not null check (shape in ('handler', 'command', 'http')),
    digest                bytea    not null check (length(digest) = 32),
    size                  bigint   not null check (size >= 0),
    summary               text     not null,
    -- JSON text, byte for byte.
    input_schema          text     not null,
    output_schema         text     not null,
    -- JSON arrays of names.
    capabilities          text     not null,
    imports               text     not null,
    exports               text     not null,
    -- JSON objects.
    limits                text     not null,
    grants                text     not null,
    config                text     not null,
    -- Ed25519, over the component's bytes.
    signature             bytea    check (length(signature) = 64),
    state                 text     collate "C" not null check (state in ('available', 'rolled_back', 'retired')),
    state_reason          text,
    pushed_by             text     not null,
    pushed_at             bigint   not null,

    unique (plugin, version),
    constraint plugin_versions_reason check ((state_reason is not null) = (state = 'rolled_back'))
);

-- The bytes of components, once for all versions that are made of them, in parts of a mebibyte: a message, a statement and a pause stay
-- short however large the component is. All parts of one are written in one transaction.
create table plugin_components (
    digest                bytea    not null check (length(digest) = 32),
    part                  integer  not null check (part >= 0),
    bytes                 bytea    not null,

    primary key (digest, part)
);

-- Wasm is better compressed as a whole or not at all; external is read back without work.
alter table plugin_components alter column bytes set storage external;

-- Sealed with a key that the database never sees. A plugin's secrets may be there before it is.
create table plugin_secrets (
    plugin                text     collate "C" not null,
    name                  text     collate "C" not null,
    sealed                bytea    not null,
    updated_at            bigint   not null,

    primary key (plugin, name)
);

create sequence plugin_events_seq;

-- Who did what to a plugin, in the order of seq.
create table plugin_events (
    plugin                text     collate "C" not null,
    seq                   bigint   not null default nextval('plugin_events_seq'),
    at                    bigint   not null,
    kind                  text     collate "C" not null
                          check (kind in ('pushed', 'activated', 'canary_started', 'canary_stopped', 'rolled_back', 'paused', 'resumed',
                                          'retired', 'settings_changed', 'secret_set', 'secret_deleted')),
    -- Null where it concerns the plugin as a whole.
    version               text,
    who                   text     not null,
    detail                text     not null,

    primary key (plugin, seq)
);

-- What the attempts of a version used in one phase: how often a value fell into a bucket, and the greatest of them. The numbers of attempts
-- and of failed ones have the bucket 0. Rows are few and changed each second, so there is room for their next versions beside them.
create table plugin_usage (
    version               uuid     not null,
    phase                 bigint   not null,
    metric                text     collate "C" not null check (metric in ('attempts', 'failed', 'fuel', 'memory', 'wall_micros', 'output')),
    bucket                integer  not null check (bucket between 0 and 65535),
    count                 bigint   not null check (count >= 0),
    max                   bigint   not null check (max >= 0),

    primary key (version, phase, metric, bucket),
    constraint plugin_usage_counts check (bucket = 0 or metric not in ('attempts', 'failed'))
) with (fillfactor = 50);

-- What plugins keep, for each tenant apart. Buckets and keys are text, but kept as bytes: text cannot hold U+0000, and bytes sort as bytes.
-- The bounds of names keep an entry of the index on its page.
create table plugin_values (
    tenant                text     collate "C" not null,
    plugin                text     collate "C" not null,
    bucket                bytea    not null check (length(bucket) <= 255),
    key                   bytea    not null check (length(key) <= 1024),
    value                 bytea    not null,

    primary key (tenant, plugin, bucket, key)
);

-- The sums over plugin_values, for the quota. Whoever writes values takes this row's lock first.
create table plugin_holdings (
    tenant                text     collate "C" not null,
    plugin                text     collate "C" not null,
    -- Of keys and values together.
    bytes                 bigint   not null check (bytes >= 0),
    keys                  bigint   not null check (keys >= 0),

    primary key (tenant, plugin)
) with (fillfactor = 50);
