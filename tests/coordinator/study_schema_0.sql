-- The study database before its schema was numbered, as SQLite kept it (commit b809fd9).
CREATE TABLE bundles (
    site VARCHAR NOT NULL,
    sequence BIGINT NOT NULL,
    sha256 VARCHAR,
    created_at DATETIME NOT NULL,
    answer_sha256 VARCHAR,
    answer_done BOOLEAN NOT NULL,
    PRIMARY KEY (site, sequence)
);
CREATE TABLE deliveries (
    site VARCHAR NOT NULL,
    package_id VARCHAR NOT NULL,
    progress VARCHAR NOT NULL,
    refused_by_rule VARCHAR,
    changed_at DATETIME NOT NULL,
    PRIMARY KEY (site, package_id)
);
CREATE TABLE events (
    id INTEGER NOT NULL,
    at DATETIME NOT NULL,
    event VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    detail JSON NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE model_updates (
    site VARCHAR NOT NULL,
    package_id VARCHAR NOT NULL,
    offer JSON NOT NULL,
    received_at DATETIME NOT NULL,
    averaged_into VARCHAR,
    PRIMARY KEY (site, package_id)
);
CREATE TABLE packages (
    package_id VARCHAR NOT NULL,
    model_version VARCHAR NOT NULL,
    from_site VARCHAR NOT NULL,
    published_at DATETIME NOT NULL,
    PRIMARY KEY (package_id)
);
CREATE TABLE plan_answers (
    site VARCHAR NOT NULL,
    plan_sha256 VARCHAR NOT NULL,
    refused_by_rule VARCHAR,
    approval VARCHAR,
    answered_at DATETIME NOT NULL,
    PRIMARY KEY (site, plan_sha256)
);
CREATE TABLE plans (
    plan_number INTEGER NOT NULL,
    plan_sha256 VARCHAR NOT NULL,
    package_id VARCHAR NOT NULL,
    signed VARCHAR NOT NULL,
    signed_at DATETIME NOT NULL,
    PRIMARY KEY (plan_number),
    UNIQUE (plan_sha256)
);
CREATE TABLE reports (
    site VARCHAR NOT NULL,
    package_id VARCHAR NOT NULL,
    report JSON NOT NULL,
    sha256 VARCHAR NOT NULL,
    received_at DATETIME NOT NULL,
    PRIMARY KEY (site, package_id)
);
CREATE TABLE site_keys (
    certificate_serial VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    signing_public_key_hex VARCHAR NOT NULL,
    encryption_public_key_hex VARCHAR NOT NULL,
    node_public_key VARCHAR NOT NULL,
    not_after DATETIME NOT NULL,
    request_sha256 VARCHAR NOT NULL,
    requested_at DATETIME NOT NULL,
    issued_at DATETIME NOT NULL,
    answer JSON NOT NULL,
    revoked_at DATETIME,
    PRIMARY KEY (certificate_serial),
    UNIQUE (request_sha256)
);
CREATE TABLE sites (
    site VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    status JSON,
    last_seen_at DATETIME,
    last_failure VARCHAR,
    bytes_to_site INTEGER NOT NULL,
    bytes_from_site INTEGER NOT NULL,
    PRIMARY KEY (site)
);
CREATE TABLE transfers (
    site VARCHAR NOT NULL,
    package_id VARCHAR NOT NULL,
    holder VARCHAR,
    expires_at DATETIME NOT NULL,
    bytes_held BIGINT NOT NULL,
    part_bytes INTEGER NOT NULL,
    PRIMARY KEY (site, package_id)
);
CREATE INDEX ix_packages_published_at ON packages (published_at);
CREATE INDEX ix_site_keys_site ON site_keys (site);
