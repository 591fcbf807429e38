"""Made-up secrets in the documented formats of providers, in the texts that carry them and in every place of an event.

Values are random and made at run time, so that no scanner of secrets finds any in the repository.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

LETTERS, DIGITS = string.ascii_letters, string.digits
ALNUM, HEX, LOWER = LETTERS + DIGITS, "0123456789abcdef", string.ascii_lowercase + DIGITS
URLSAFE, BASE64 = ALNUM + "-_", ALNUM + "+/"
#: Signs that a password may hold without ending an argument, a query's value or a login in a URL.
PASSWORD = ALNUM + "!#%^*.~"


class Shape(NamedTuple):
    """A text that holds secrets: as one text, as the arguments of a program, and what of it must not be left."""

    label: str
    text: str
    arguments: list[str]
    secrets: list[str]


class Maker:
    """Makes values that look like those of providers; none is real."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def any(self, alphabet: str, size: int) -> str:
        """A random text with a digit and a capital in it where the alphabet has them."""
        made = self._rng.choices(alphabet, k=size)
        must = [sign for sign in ("7", "Q", "x") if sign in alphabet]
        for place, sign in zip(self._rng.sample(range(1, size - 1), len(must)), must, strict=True):
            made[place] = sign
        return "".join(made)

    def password(self) -> str:
        """A password of 14 signs that begins with a letter and ends with one."""
        return "h" + self.any(PASSWORD, 12) + "r"

    def web_token(self) -> str:
        """A JSON Web Token."""
        parts = ({"alg": "RS256", "kid": self.any(ALNUM, 8)}, {"sub": self.any(ALNUM, 8), "aud": ["x"]})
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, self.any(URLSAFE, 43)])

    def private_key(self, kind: str) -> str:
        """A private key in PEM."""
        lines = "\n".join(self.any(BASE64, 64) for _ in range(4))
        edges = [f"-----{edge} {kind}-----" for edge in ("BEGIN", "END")]
        return f"{edges[0]}\n{lines}\n{edges[1]}\n"


# Prefix, alphabet, length behind the prefix, and what follows it.
TOKENS: tuple[tuple[str, str, str, int, str], ...] = (
    ("GitHub personal", "ghp_", ALNUM, 36, ""), ("GitHub OAuth", "gho_", ALNUM, 36, ""), ("GitHub user", "ghu_", ALNUM, 36, ""),
    ("GitHub server", "ghs_", ALNUM, 36, ""), ("GitHub refresh", "ghr_", ALNUM, 76, ""),
    ("GitHub fine-grained", "github_pat_", ALNUM + "_", 82, ""), ("GitLab personal", "glpat-", URLSAFE, 20, ""),
    ("GitLab deploy", "gldt-", URLSAFE, 20, ""), ("GitLab runner", "glrt-", URLSAFE, 20, ""),
    ("GitLab job", "glcbt-", URLSAFE, 22, ""), ("GitLab agent", "glagent-", URLSAFE, 50, ""),
    ("GitLab trigger", "glptt-", HEX, 40, ""), ("Google API key", "AIza", URLSAFE, 35, ""),
    ("Google access", "ya29.", URLSAFE, 60, ""), ("Google client secret", "GOCSPX-", URLSAFE, 28, ""),
    ("Google refresh", "1//0", URLSAFE, 60, ""), ("Slack bot", "xox" + "b-", DIGITS + LETTERS, 48, ""),
    ("Slack user", "xox" + "p-", DIGITS + LETTERS, 60, ""), ("Slack app", "xapp-1-", ALNUM, 60, ""),
    ("Stripe live", "sk_" + "live_", ALNUM, 24, ""), ("Stripe restricted", "rk_" + "live_", ALNUM, 24, ""),
    ("Stripe webhook", "whsec_", ALNUM, 32, ""), ("npm", "npm_", ALNUM, 36, ""), ("PyPI", "pypi-AgE", URLSAFE, 120, ""),
    ("Docker Hub", "dckr_pat_", URLSAFE, 27, ""), ("Docker organization", "dckr_oat_", URLSAFE, 32, ""),
    ("Vault service", "hvs.", URLSAFE, 90, ""), ("Vault batch", "hvb.", URLSAFE, 120, ""),
    ("Vault recovery", "hvr.", URLSAFE, 90, ""),
    ("SendGrid", "SG.", URLSAFE, 22, "."), ("OpenAI", "sk-", ALNUM, 48, ""), ("OpenAI project", "sk-proj-", URLSAFE, 74, ""),
    ("OpenAI service account", "sk-svcacct-", URLSAFE, 74, ""), ("Anthropic", "sk-ant-api03-", URLSAFE, 95, ""),
    ("Hugging Face", "hf_", LETTERS, 34, ""), ("Databricks", "dapi", HEX, 32, ""), ("DigitalOcean", "dop_v1_", HEX, 64, ""),
    ("DigitalOcean OAuth", "doo_v1_", HEX, 64, ""), ("Grafana", "glsa_", ALNUM, 32, "_"),
    ("Grafana Cloud", "glc_", ALNUM, 60, ""),
    ("Sentry", "sntrys_", ALNUM, 80, ""), ("Figma", "figd_", URLSAFE, 40, ""), ("PlanetScale", "pscale_tkn_", URLSAFE, 43, ""),
    ("Square access", "sq0atp-", URLSAFE, 22, ""), ("Square OAuth", "sq0csp-", URLSAFE, 43, ""),
    ("Atlassian", "ATATT3", URLSAFE, 180, ""), ("Bitbucket", "ATBB", ALNUM, 32, ""), ("Tailscale", "tskey-auth-", ALNUM, 24, ""),
    ("Pulumi", "pul-", HEX, 40, ""), ("Supabase", "sbp_", HEX, 40, ""), ("Notion", "ntn_", ALNUM, 46, ""),
    ("Notion before", "secret_", ALNUM, 43, ""), ("New Relic", "NRAK-", string.ascii_uppercase + DIGITS, 27, ""),
    ("Postman", "PMAK-", HEX, 24, "-"), ("Artifactory", "AKCp", ALNUM, 69, ""), ("Shopify", "shpat_", HEX, 32, ""),
    ("RubyGems", "rubygems_", HEX, 48, ""), ("Linear", "lin_api_", ALNUM, 40, ""), ("SonarQube", "sqp_", HEX, 40, ""),
    ("Groq", "gsk_", ALNUM, 52, ""), ("Replicate", "r8_", ALNUM, 37, ""), ("Perplexity", "pplx-", ALNUM, 48, ""),
    ("age", "AGE-SECRET-KEY-1", "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58, ""), ("LangSmith", "lsv2_pt_", HEX, 32, "_"),
    ("1Password", "ops_eyJ", URLSAFE, 200, ""), ("Twilio key", "SK", HEX, 32, ""), ("Mailgun", "key-", HEX, 32, ""),
    ("EasyPost", "EZAK", ALNUM, 54, ""), ("Flutterwave", "FLWSECK-", HEX, 32, ""), ("Brevo", "xkeysib-", HEX, 64, ""),
    ("CircleCI", "CCIPAT_", ALNUM, 40, ""), ("Buildkite", "bkua_", HEX, 40, ""), ("NVIDIA", "nvapi-", ALNUM, 64, ""),
    ("PostHog", "phx_", ALNUM, 43, ""), ("Clojars", "CLOJARS_", HEX, 60, ""), ("Airtable", "patNT", ALNUM, 60, ""),
)  # fmt: skip

# Names that environment variables, options and headers of known programs give to values without a form of their own.
NAMES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "ARM_CLIENT_SECRET", "AZURE_STORAGE_KEY=AccountKey",
    "DD_API_KEY", "DATADOG_API_KEY", "DD_APP_KEY", "TWILIO_AUTH_TOKEN", "MYSQL_ROOT_PASSWORD", "MYSQL_PWD", "PGPASSWORD",
    "POSTGRES_PASSWORD", "REDIS_PASSWORD", "MONGO_INITDB_ROOT_PASSWORD", "RABBITMQ_DEFAULT_PASS", "GF_SECURITY_ADMIN_PASSWORD",
    "CLOUDFLARE_API_TOKEN", "CF_API_KEY", "HEROKU_API_KEY", "JWT_SECRET", "SECRET_KEY", "SECRET_KEY_BASE", "DJANGO_SECRET_KEY",
    "ENCRYPTION_KEY", "SIGNING_KEY", "SONAR_TOKEN", "CONSUL_HTTP_TOKEN", "NOMAD_TOKEN", "ETCD_ROOT_PASSWORD",
    "LDAP_BIND_PASSWORD",
    "SMTP_PASSWORD", "KEYSTORE_PASSPHRASE", "VAULT_TOKEN", "GRAFANA_API_KEY", "ELASTIC_PASSWORD", "SNOWFLAKE_PASSWORD",
    "OAUTH_CLIENT_SECRET", "ALGOLIA_API_KEY", "NEW_RELIC_LICENSE_KEY", "SEGMENT_WRITE_KEY", "PAGERDUTY_ROUTING_KEY",
)  # fmt: skip
OPTIONS = (
    "--password", "--passwd", "--token", "--api-key", "--apikey", "--secret-key", "--access-key", "--client-secret",
    "--admin-password", "--db-password", "--bearer-token", "--auth-token", "--private-key", "--passphrase", "-password",
    "--registry-password", "--github-token", "--webhook-secret", "--pass", "-token",
)  # fmt: skip
HEADERS = (
    "X-Vault-Token: {}", "PRIVATE-TOKEN: {}", "X-Api-Key: {}", "DD-API-KEY: {}", "Authorization: Bearer {}",
    "Authorization: token {}", "Authorization: ApiKey {}", "Authorization: Splunk {}", "Proxy-Authorization: Basic {}",
    "Cookie: session={}", "Ocp-Apim-Subscription-Key: {}", "X-Auth-Token: {}", "Private-Token:{}",
)  # fmt: skip
CONNECTIONS = (
    "postgres://app:{}@db.example:5432/app?sslmode=require", "postgresql+psycopg2://app:{}@db/app", "mysql://root:{}@mysql:3306/app",
    "mongodb://admin:{}@m1:27017,m2:27017/app?replicaSet=rs0", "mongodb+srv://admin:{}@cluster0.example/app", "redis://:{}@redis:6379/0",
    "rediss://default:{}@redis:6380", "amqp://guest:{}@rabbit:5672/vhost", "amqps://svc:{}@rabbit", "https://bob:{}@git.example/a.git",
    "ftp://bob:{}@files.example/a", "ldap://cn=admin:{}@ldap.example", "smtp://mailer:{}@smtp.example:587",
    "http://user:{}@proxy.example:3128", "clickhouse://default:{}@ch:9000/x", "nats://svc:{}@nats:4222",
    "Server=tcp:db,1433;User ID=sa;Password={};Encrypt=True", "Host=db;Username=app;Pwd={};Database=x",
    "host=db user=app password={} dbname=app", "jdbc:mysql://db/app?user=root&password={}",
    "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={}==;EndpointSuffix=core.example",
    "Endpoint=sb://x.example/;SharedAccessKeyName=Root;SharedAccessKey={}=",
)  # fmt: skip
URLS = (
    "https://x.blob.example/c/b?sv=2022-11-02&se=2026-01-01&sr=b&sp=r&sig={}%3D", "https://b.s3.example/o?X-Amz-Signature={}&x=1",
    "https://b.s3.example/o?X-Amz-Security-Token={}", "https://storage.example/o?X-Goog-Signature={}&y=2",
    "https://x.example/cb?access_token={}&state=1", "https://x.example/?api_key={}", "https://x.example/hook?token={}",
    "https://maps.example/api?q=1&key=x&client_secret={}", "https://x.example/login?user=a&password={}",
)  # fmt: skip
# Arguments of programs.
COMMANDS = (
    ["mysql", "-u", "root", "-p{}", "-h", "db"], ["mysqldump", "-uroot", "-p{}", "app"], ["mariadb", "-p{}"],
    ["mongosh", "-u", "admin", "-p", "{}"], ["sshpass", "-p", "{}", "ssh", "root@host"],
    ["redis-cli", "-h", "r", "-a", "{}", "ping"],
    ["docker", "login", "-u", "bob", "-p", "{}", "registry.example"], ["helm", "registry", "login", "-u", "b", "-p", "{}"],
    ["curl", "-u", "bob:{}", "https://x.example"], ["curl", "--user", "bob:{}", "https://x.example"],
    ["wget", "--password={}", "https://x.example"], ["etcdctl", "--user", "root:{}", "get", "/"], ["az", "login", "-p", "{}"],
    ["ldapsearch", "-x", "-D", "cn=admin", "-w", "{}"], ["sqlcmd", "-S", "db", "-U", "sa", "-P", "{}"],
    ["openssl", "rsa", "-in", "a.pem", "-passin", "pass:{}"], ["kubectl", "--token", "{}", "get", "pods"],
    ["vault", "login", "-token={}"], ["psql", "-c", "ALTER USER a WITH PASSWORD '{}'"],
    ["mysql", "-e", "CREATE USER a IDENTIFIED BY '{}'"], ["sh", "-c", "echo 'root:{}' | chpasswd"],
    ["keytool", "-storepass={}"], ["java", "-Djavax.net.ssl.keyStorePassword={}", "-jar", "a.jar"],
    ["bash", "-c", "export TOKEN={}; ./run"], ["sh", "-c", "mysql -uroot -p{} -e 'select 1'"],
    ["git", "clone", "https://oauth2:{}@gitlab.example/a/b.git"], ["redis-cli", "CONFIG", "SET", "requirepass", "{}"],
    ["sh", "-c", "printf 'machine x login bob password {}' > ~/.netrc"], ["nats", "--creds-token", "{}"],
    ["env", "DB_PASSWORD={}", "./serve"], ["mongodump", "--uri", "mongodb://a:{}@m/x"],
)  # fmt: skip
CARRIERS = (
    "{}",
    "Bearer {}",
    "--token={}",
    "https://x.example/?t={}&u=1",
    "https://{}@git.example/a.git",
    "a {} b",
)


def shapes(seed: int = 1) -> Iterator[Shape]:
    """All shapes, with fresh values."""
    make = Maker(seed)
    for number, (label, prefix, alphabet, size, more) in enumerate(TOKENS):
        value = prefix + make.any(alphabet, size) + (more + make.any(alphabet, 30) if more else "")
        carrier = CARRIERS[number % len(CARRIERS)]
        yield _text(label, carrier.replace("{}", value), value)
        yield _text(f"{label}, bare", value, value)
    for name in NAMES:
        value = make.any(ALNUM, 32)
        yield _text(name, f"{name}={value}", value)
    for option in OPTIONS:
        value = make.password()
        yield Shape(f"{option} apart", f"{option} {value}", [option, value], [value])
        value = make.password()
        yield Shape(f"{option}=", f"{option}={value}", [f"{option}={value}"], [value])
    for template in HEADERS:
        value = make.any(ALNUM, 30)
        yield _text(template, template.replace("{}", value), value)
    for template in CONNECTIONS:
        value = make.any(ALNUM, 24)
        yield _text(template, template.replace("{}", value), value)
    for template in URLS:
        value = make.any(ALNUM, 40)
        yield _text(template, template.replace("{}", value), value)
    for command in COMMANDS:
        value = "h" + make.any(ALNUM, 14)
        arguments = [argument.replace("{}", value) for argument in command]
        yield Shape(" ".join(command), " ".join(arguments), arguments, [value])
    yield from _files(make)


def _text(label: str, text: str, *secrets: str) -> Shape:
    return Shape(label, text, [text], list(secrets))


def _files(make: Maker) -> Iterator[Shape]:
    """Private keys, web tokens, and files of configuration, plain and in base64."""
    kinds = ("RSA", "EC", "DSA", "OPENSSH", "ENCRYPTED")
    for kind in (*(f"{one} PRIVATE KEY" for one in kinds), "PRIVATE KEY", "PGP PRIVATE KEY BLOCK"):
        key = make.private_key(kind)
        yield _text(kind, key, *key.split("\n")[1:5])
    for carrier in ("{}", "Bearer {}", "?token={}", "--token={}", '{{"token":"{}"}}'):
        token = make.web_token()
        yield _text(
            f"JWT in {carrier}", carrier.replace("{{", "{").replace("}}", "}").replace("{}", token), token
        )
    parts = [base64.urlsafe_b64encode(b'{"alg":"RSA-OAEP","enc":"A256GCM"}').decode().rstrip("=")]
    parts += [make.any(URLSAFE, size) for size in (80, 16, 60, 22)]
    yield _text("JWE", ".".join(parts), *parts[1:])
    bootstrap = f"{make.any(LOWER, 6)}.{make.any(LOWER, 16)}"
    yield _text("bootstrap token", f"kubeadm join 10.0.0.1:6443 --token {bootstrap}", bootstrap)
    yield _text("bootstrap token, bare", bootstrap, bootstrap)
    yield _text(
        "AWS pair",
        f"AKIA{make.any(string.ascii_uppercase + DIGITS, 16)}:{(value := make.any(BASE64, 40))}",
        value,
    )
    yield _text("Terraform Cloud", value := f"{make.any(ALNUM, 14)}.atlasv1.{make.any(URLSAFE, 67)}", value)
    yield _text(
        "Telegram",
        f"https://api.telegram.org/bot{(value := '1234567890:AA' + make.any(URLSAFE, 33))}/x",
        value,
    )
    hook = f"T{make.any(ALNUM, 9)}/B{make.any(ALNUM, 9)}/{(value := make.any(ALNUM, 24))}"
    yield _text("Slack webhook", f"https://hooks.slack.com/services/{hook}", value)
    yield _text(
        "Discord", f"https://discord.com/api/webhooks/123456/{(value := make.any(URLSAFE, 68))}", value
    )
    login = base64.b64encode(f"bob:{(value := make.password())}".encode()).decode()
    yield _text("basic login", f"Authorization: Basic {login}", login, value)
    kubeconfig = f"apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user:\n    token: {(value := make.any(ALNUM, 40))}\n"
    yield _text("kubeconfig", kubeconfig, value)
    encoded = base64.b64encode(kubeconfig.encode()).decode()
    yield _text("kubeconfig in base64", f"echo {encoded} | base64 -d", encoded)
    docker = json.dumps({"auths": {"r.example": {"auth": (value := make.any(ALNUM, 32))}}})
    yield _text("docker config", docker, value)
    encoded = base64.b64encode(docker.encode()).decode()
    yield _text("docker config in base64", encoded, encoded)
    key = base64.b64encode(make.private_key("PRIVATE KEY").encode()).decode()
    yield _text("key in base64", key, key)
    account = json.dumps(
        {"type": "service_account", "private_key_id": "x", "private_key": make.private_key("PRIVATE KEY")}
    )
    yield _text("GCP service account", account, *json.loads(account)["private_key"].split("\n")[1:5])
    encoded = base64.b64encode(account.encode()).decode()
    yield _text("GCP service account in base64", encoded, encoded)
    yield _text("YAML", f"db:\n  user: a\n  password: {(value := make.password())}\n", value)
    yield _text("JSON", json.dumps({"a": {"clientSecret": (value := make.password())}}), value)
    yield _text(
        "JSON in JSON", json.dumps({"a": json.dumps({"password": (value := make.any(ALNUM, 20))})}), value
    )
    yield _text("two words", f'password: "{(value := make.any(ALNUM, 9) + " " + make.any(ALNUM, 9))}"', value)


# -- places -----------------------------------------------------------------------------------------------------

_EXEC = "/api/v1/namespaces/web/pods/db/exec"


def _exec(arguments: list[str]) -> dict[str, Any]:
    query = "&".join("command=" + quote_plus(argument) for argument in arguments)
    return {"requestURI": f"{_EXEC}?{query}&container=a&stdin=true&tty=true"}


def _container(arguments: list[str]) -> dict[str, Any]:
    return {"containers": [{"name": "a", "image": "x", "command": arguments[:1], "args": arguments[1:]}]}


def _annotated(text: str) -> dict[str, Any]:
    return {"metadata": {"name": "db", "annotations": {"example.com/note": text}}}


#: Where an event may hold a text.
PLACES: dict[str, Callable[[Shape], dict[str, Any]]] = {
    "arguments of exec": lambda shape: _exec(shape.arguments),
    "a shell's line in exec": lambda shape: _exec(["sh", "-c", shape.text]),
    "exec, encoded to the last sign": lambda shape: {
        "requestURI": f"{_EXEC}?command=" + "&command=".join(_all_encoded(argument) for argument in shape.arguments)
    },
    "path of a proxy": lambda shape: {"requestURI": "/api/v1/nodes/n/proxy/run/" + quote(shape.text, safe="")},
    "query, encoded twice": lambda shape: {"requestURI": "/api/v1/nodes/n/proxy/x?y=" + quote_plus(quote_plus(shape.text))},
    "user agent": lambda shape: {"userAgent": shape.text},
    "audit annotation": lambda shape: {"annotations": {"authorization.k8s.io/reason": "", "x/y": shape.text}},
    "user extra": lambda shape: {"user": {"username": "a", "extra": {"example.com/x": ["b", shape.text]}}},
    "status message": lambda shape: {"responseStatus": {"code": 400, "message": f'failed: "{shape.text}"'}},
    "arguments of a container": lambda shape: {"requestObject": {"spec": _container(shape.arguments)}},
    "a shell's line in a container": lambda shape: {"responseObject": {"spec": _container(["sh", "-c", shape.text])}},
    "environment": lambda shape: {
        "requestObject": {"spec": {"containers": [{"env": [{"name": "A", "value": shape.text}]}]}}
    },
    "annotation": lambda shape: {"requestObject": _annotated(shape.text)},
    "annotation in JSON": lambda shape: {"requestObject": _annotated(json.dumps({"args": shape.arguments, "x": shape.text}))},
    "last-applied": lambda shape: {
        "responseObject": {
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps([shape.text])}}
        }
    },
    "message of an object": lambda shape: {"requestObject": {"kind": "Event", "message": f"Error: {shape.text}"}},
    "patch": lambda shape: {"requestObject": [{"op": "add", "path": "/spec/x", "value": shape.arguments}]},
}  # fmt: skip


def _all_encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def event_with(place: str, shape: Shape, number: int = 1) -> dict[str, Any]:
    """An event that holds the text of a shape in a place."""
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": f"{number:08d}-0000-4000-8000-000000000000",
        "stage": "ResponseComplete",
        "verb": "create",
        "requestURI": "/api/v1/namespaces/web/pods/db",
        "user": {"username": "dev-1@example.com", "groups": ["system:authenticated"]},
        "sourceIPs": ["10.0.0.7"],
        "userAgent": "kubectl/v1.30.1 (linux/amd64) kubernetes/6911225",
        "objectRef": {"resource": "pods", "namespace": "web", "name": "db", "apiVersion": "v1"},
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": f"2026-01-05T09:30:{number % 60:02d}.{number:06d}Z",
        "stageTimestamp": f"2026-01-05T09:30:{number % 60:02d}.{number:06d}Z",
        **PLACES[place](shape),
    }


def go_json(document: Any) -> bytes:
    """JSON as Go writes it: `&`, `<` and `>` are escaped."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for sign in "&<>":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


def left(text: str, secret: str, size: int = 9) -> str:
    """The first part of a secret of so many characters that a text holds; empty if none."""
    size = min(size, len(secret))
    parts = (secret[at : at + size] for at in range(len(secret) - size + 1))
    return next((part for part in parts if part in text), "")
