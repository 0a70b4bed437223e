-- How much mail a version has sent in the hour of the clock in which it last sent any. One row a
-- version; the statement that counts a message also guards the limit.
create table plugin_mail (
    plugin                text     not null,
    version               text     not null,
    -- Hours since 1970-01-01 00:00 UTC.
    hour                  integer  not null,
    messages              integer  not null check (messages >= 0),
    bytes                 integer  not null check (bytes >= 0),

    primary key (plugin, version)
) strict, without rowid;
