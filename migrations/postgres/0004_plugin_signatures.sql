-- Signatures that say what is signed, the highest version that was live, and the collection of versions that nothing refers to.

-- A signature was 64 bytes over the component's bytes, which let a signed component pass under another name, version or owner, with
-- any grants. Those vouch for nothing any more. Now it is the JSON text of a DSSE envelope around a statement.
alter table plugin_versions drop column signature;
alter table plugin_versions add column signature bytea check (length(signature) between 1 and 32768);

-- When the version was last one that the rollout named (stable, previous or on trial), as the change that may have ended it found it.
-- Null: it never was. What is there already counts from now.
alter table plugin_versions add column released_at bigint;
update plugin_versions set released_at = (extract(epoch from now()) * 1000000)::bigint;

create index plugin_versions_digest on plugin_versions (digest);

-- The number of the highest version that was ever the stable one.
alter table plugins add column highest text collate "C";
update plugins set highest = (select version from plugin_versions where id = stable);

-- Versions that were collected. A number that was taken never comes to mean other bytes, and what was retired stays so.
create table plugin_collected (
    plugin                text     collate "C" not null,
    version               text     collate "C" not null,
    digest                bytea    not null check (length(digest) = 32),
    retired               boolean  not null,

    primary key (plugin, version)
);

alter table plugin_events drop constraint plugin_events_kind_check;
alter table plugin_events add constraint plugin_events_kind_check
    check (kind in ('pushed', 'activated', 'canary_started', 'canary_stopped', 'rolled_back', 'paused', 'resumed', 'retired',
                    'settings_changed', 'secret_set', 'secret_deleted', 'signed', 'collected'));
