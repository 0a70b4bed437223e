-- Signatures that say what is signed, the highest version that was live, and the collection of versions that nothing refers to.

-- A signature was 64 bytes over the component's bytes, which let a signed component pass under another name, version or owner, with
-- any grants. Those vouch for nothing any more. Now it is the JSON text of a DSSE envelope around a statement.
alter table plugin_versions drop column signature;
alter table plugin_versions add column signature blob check (length(signature) between 1 and 32768);

-- When the version was last one that the rollout named (stable, previous or on trial), as the change that may have ended it found it.
-- Null: it never was. What is there already counts from now.
alter table plugin_versions add column released_at integer;
update plugin_versions set released_at = unixepoch() * 1000000;

create index plugin_versions_digest on plugin_versions (digest);

-- The number of the highest version that was ever the stable one.
alter table plugins add column highest text;
update plugins set highest = (select version from plugin_versions where id = stable);

-- Versions that were collected. A number that was taken never comes to mean other bytes, and what was retired stays so.
create table plugin_collected (
    plugin                text    not null,
    version               text    not null,
    digest                blob    not null check (length(digest) = 32),
    retired               integer not null check (retired in (0, 1)),

    primary key (plugin, version)
) strict, without rowid;

-- The same table with two kinds of event more.
create table plugin_events_new (
    seq                   integer not null primary key,
    plugin                text    not null,
    at                    integer not null,
    kind                  text    not null
                          check (kind in ('pushed', 'activated', 'canary_started', 'canary_stopped', 'rolled_back', 'paused', 'resumed',
                                          'retired', 'settings_changed', 'secret_set', 'secret_deleted', 'signed', 'collected')),
    -- Null where it concerns the plugin as a whole.
    version               text,
    who                   text    not null,
    detail                text    not null
) strict;

insert into plugin_events_new select seq, plugin, at, kind, version, who, detail from plugin_events;
drop table plugin_events;
alter table plugin_events_new rename to plugin_events;

create index plugin_events_plugin on plugin_events (plugin, seq);
