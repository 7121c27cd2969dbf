-- Whose the devices of an enrolment token are. Owned by registry/enrolment.rs.
ALTER TABLE enrolment_token ADD COLUMN supplier TEXT;                  -- NULL: the operator's own
