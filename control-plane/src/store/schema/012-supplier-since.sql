-- Since when a device is its supplier's: of what it carried before nobody but the operator knows. Owned by registry/mod.rs.
ALTER TABLE device ADD COLUMN supplier_since INTEGER;                  -- seconds since 1970; NULL: since it was made
