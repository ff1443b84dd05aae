"""What PostgreSQL's catalogue must say of a ledger after each migration, to the letter."""

from typing import Final

EXPECTED_POSTGRESQL: Final = {
    "0001": {
        "accounts.balance_minor": "bigint NO",
        "accounts.chain": "bytea NO",
        "accounts.id": "bigint NO",
        "accounts.opened_at_us": "bigint NO",
        "accounts.seq": "bigint NO",
        "accounts.user_id": "text NO",
        "accounts: ck_accounts_chain": "CHECK ((length(chain) = 32))",
        "accounts: ck_accounts_never_overdrawn": "CHECK ((balance_minor >= 0))",
        "accounts: ck_accounts_seq": "CHECK ((seq >= 0))",
        "accounts: ck_accounts_user_id": (
            "CHECK (((length(user_id) >= 1) AND (length(user_id) <= 128)))"
        ),
        "accounts: pk_accounts": "PRIMARY KEY (id)",
        "accounts: uq_accounts_user_id": "UNIQUE (user_id)",
        "accounts_keep_identity": (
            "CREATE TRIGGER accounts_keep_identity BEFORE UPDATE OF id, user_id, "
            "opened_at_us ON public.accounts FOR EACH STATEMENT EXECUTE FUNCTION "
            "teller_refuse('an account keeps its id, user and opening time') O"
        ),
        "accounts_never_deleted": (
            "CREATE TRIGGER accounts_never_deleted BEFORE DELETE OR TRUNCATE ON "
            "public.accounts FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('accounts "
            "are never deleted') O"
        ),
        "ix_movements_created_at_us": (
            "CREATE INDEX ix_movements_created_at_us ON public.movements USING btree "
            "(created_at_us)"
        ),
        "ledger.created_at_us": "bigint NO",
        "ledger.currency": "text NO",
        "ledger.currency_scale": "integer NO",
        "ledger.id": "bigint NO",
        "ledger.runs_from": "text NO",
        "ledger: ck_ledger_currency_scale": (
            "CHECK (((currency_scale >= 0) AND (currency_scale <= 9)))"
        ),
        "ledger: ck_ledger_one_row": "CHECK ((id = 1))",
        "ledger: pk_ledger": "PRIMARY KEY (id)",
        "ledger_keeps_currency": (
            "CREATE TRIGGER ledger_keeps_currency BEFORE UPDATE OF id, currency, "
            "currency_scale, created_at_us ON public.ledger FOR EACH STATEMENT EXECUTE "
            "FUNCTION teller_refuse('the ledger keeps its currency') O"
        ),
        "ledger_never_deleted": (
            "CREATE TRIGGER ledger_never_deleted BEFORE DELETE OR TRUNCATE ON "
            "public.ledger FOR EACH STATEMENT EXECUTE FUNCTION teller_refuse('the ledger "
            "keeps its currency') O"
        ),
        "movements.account_id": "bigint NO",
        "movements.amount_minor": "bigint YES",
        "movements.balance_after_minor": "bigint NO",
        "movements.chain": "bytea NO",
        "movements.created_at_us": "bigint NO",
        "movements.key": "text NO",
        "movements.kind": "text NO",
        "movements.outcome": "text NO",
        "movements.reason": "text YES",
        "movements.reference": "text YES",
        "movements.seq": "bigint NO",
        "movements: ck_movements_amount_positive": "CHECK ((amount_minor > 0))",
        "movements: ck_movements_burn_has_no_amount": (
            "CHECK (((kind = 'burn'::text) = (amount_minor IS NULL)))"
        ),
        "movements: ck_movements_burn_is_burned": (
            "CHECK (((kind = 'burn'::text) = (outcome = 'burned'::text)))"
        ),
        "movements: ck_movements_chain": "CHECK ((length(chain) = 32))",
        "movements: ck_movements_key": "CHECK (((length(key) >= 1) AND (length(key) <= 255)))",
        "movements: ck_movements_kind": (
            "CHECK ((kind = ANY (ARRAY['deposit'::text, 'withdrawal'::text, 'burn'::text])))"
        ),
        "movements: ck_movements_never_overdrawn": "CHECK ((balance_after_minor >= 0))",
        "movements: ck_movements_outcome": (
            "CHECK ((outcome = ANY (ARRAY['applied'::text, 'refused'::text, 'burned'::text])))"
        ),
        "movements: ck_movements_reason": (
            "CHECK ((reason = ANY (ARRAY['insufficient-funds'::text, 'balance-limit'::text])))"
        ),
        "movements: ck_movements_reference": (
            "CHECK (((length(reference) >= 1) AND (length(reference) <= 140)))"
        ),
        "movements: ck_movements_refusal_has_reason": (
            "CHECK (((outcome = 'refused'::text) = (reason IS NOT NULL)))"
        ),
        "movements: ck_movements_seq": "CHECK ((seq >= 1))",
        "movements: fk_movements_account_id": "FOREIGN KEY (account_id) REFERENCES accounts(id)",
        "movements: pk_movements": "PRIMARY KEY (account_id, seq)",
        "movements: uq_movements_account_id_key": "UNIQUE (account_id, key)",
        "movements_never_deleted": (
            "CREATE TRIGGER movements_never_deleted BEFORE DELETE OR TRUNCATE ON "
            "public.movements FOR EACH STATEMENT EXECUTE FUNCTION "
            "teller_refuse('movements are append-only') O"
        ),
        "movements_never_updated": (
            "CREATE TRIGGER movements_never_updated BEFORE UPDATE ON public.movements FOR"
            " EACH STATEMENT EXECUTE FUNCTION teller_refuse('movements are append-only') "
            "O"
        ),
        "pk_accounts": "CREATE UNIQUE INDEX pk_accounts ON public.accounts USING btree (id)",
        "pk_ledger": "CREATE UNIQUE INDEX pk_ledger ON public.ledger USING btree (id)",
        "pk_movements": (
            "CREATE UNIQUE INDEX pk_movements ON public.movements USING btree (account_id, seq)"
        ),
        "teller_refuse": (
            " BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = "
            "'restrict_violation'; END "
        ),
        "uq_accounts_user_id": (
            "CREATE UNIQUE INDEX uq_accounts_user_id ON public.accounts USING btree (user_id)"
        ),
        "uq_movements_account_id_key": (
            "CREATE UNIQUE INDEX uq_movements_account_id_key ON public.movements USING "
            "btree (account_id, key)"
        ),
    },
}
