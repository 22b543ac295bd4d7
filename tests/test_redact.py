# SPDX-License-Identifier: MIT
"""Secrets never reach an output, and what is none stays readable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.record import Process
from pyegress.redact import MASK, Redactor, mask

# `{}` is the secret; each is how a real program is told one.
FORMS = (
    "mysqldump --password={} --all-databases",
    "vault-agent --role x --token={}",
    "gh --with-token={} api",
    "deploy token={} stage=prod",
    "prog --db-password {} --port 5432",
    "prog -token {} serve",
    "prog --api-key {} --verbose",
    "prog --api_key={}",
    "prog apikey={} x",
    "env PGPASSWORD={} psql -h db",
    "env AWS_SECRET_ACCESS_KEY={} aws s3 ls",
    "env MYSQL_PWD={} mysql",
    "sh -c GITHUB_TOKEN={} make release",
    "prog --passphrase {}",
    "prog --client-secret {} --tenant t",
    "curl -H Authorization: Bearer {} https://api.example/v1",
    "curl -H Authorization: {} https://api.example/v1",
    "curl -H Authorization: GenieKey {} https://api.example/v1",
    "curl -H authorization:{} https://api.example/v1",
    "curl -H X-Api-Key: {} https://api.example/v1",
    "curl -H PRIVATE-TOKEN: {} https://gitlab.example/api",
    "http GET api.example X-Auth-Token:{}",
    "grpcurl -H bearer {} api.example:443",
    "curl -H Cookie: sid={} https://a.example",
    "curl -H Cookie: a=1; sid={}; b=2 https://a.example",
    "curl -b sid={} https://a.example",
    "curl -sS -u admin:{} https://a.example",
    "curl -uadmin:{} https://a.example",
    "curl -ksu admin:{} https://a.example",
    "curl --user admin:{} https://a.example",
    "curl --proxy-user me:{} https://a.example",
    "curl -x me:{}@proxy:3128 https://a.example",
    "git clone https://user:{}@git.example/repo.git",
    "psql postgresql://app:{}@db.example:5432/app?sslmode=require",
    "redis-cli -u redis://:{}@cache.example:6379/0",
    "/usr/bin/redis-cli -h cache -a {} ping",
    "curl https://a.example/x?user=me&token={}&page=2",
    "wget https://acc.blob.example/c?sv=2022&sig={}&se=2030",
    "curl https://b.s3.example/k?X-Amz-Signature={}&x=1",
    "tool Server=db;Uid=app;Pwd={};Encrypt=yes",
    "java -jar a.jar jdbc:mysql://db/x?user=a&password={}",
    'curl -d {{"user":"a","password":"{}"}} https://a.example',
    "mysql -u root -p{} shop",
    "/usr/bin/mariadb-dump -uroot -p{} shop",
    "sh -c mysqladmin -p{} status",
    "sshpass -p {} ssh -p 22 host",
    "sshpass -p{} ssh host",
    "mongodump -u a -p {} --db x",
    "docker login -u me -p {} registry.example",
    "skopeo copy --src-creds me:{} docker://a docker://b",
    "smbclient //srv/share -U me%{}",
    "ldapsearch -x -D cn=admin -w {} -b dc=x",
    "openssl rsa -in k.pem -passin pass:{}",
    "7z x -p{} a.7z",
    "lftp -u me,{} ftp.example",
    "nmcli dev wifi connect Home password {}",
    "pyegress run -O loki:pass:{} -o loki",
    "app dbPass={} x",
    "app password = {} x",
    'app {{"password" : "{}"}}',
    'sh -c curl -d {{\\"password\\":\\"{}\\"}} https://a.example',
    "curl https://hooks.slack.com/services/{}",
    "curl https://api.telegram.org/bot{}/sendMessage",
    "sqlplus scott/{}@db",
    "mc alias set store https://s3.example key {}",
    "kubeadm join 10.0.0.1:6443 --token {} --discovery-token-ca-cert-hash sha256:00",
    "pyegress run -O loki:url:https://me:{}@loki.example",
    "az login --service-principal -u a -p {}",
    "kubectl create secret generic s --from-literal=password={}",
)

HARMLESS = (
    "/sbin/init",
    "/usr/lib/systemd/systemd --user",
    "/usr/lib/systemd/systemd-resolved",
    "/usr/sbin/sshd -D -o AuthorizedKeysCommand=none",
    "sshd: root@pts/0",
    "ssh -p 2222 -i /root/.ssh/id_ed25519 root@host uname -a",
    "scp -P 2222 file user@host:/tmp",
    "rsync -az --delete -e ssh -p 22 /srv/ backup@host:/srv/",
    "curl https://www.devops.works",
    "curl -fsSL https://get.docker.com -o get-docker.sh",
    "curl -X POST -H Content-Type: application/json -d @body.json https://a.example/v1/items?page=2&size=10",
    "curl --cacert /etc/ssl/ca.pem --cert client.pem --key client.key https://a.example",
    "curl -sS -u admin https://a.example",
    "curl -b cookies.txt -c cookies.txt https://a.example",
    "curl -x http://proxy.example:3128 https://a.example",
    "curl -o /dev/null http://[2001:db8::1]:8080/path@v1",
    "wget -q -O - http://host:8080/a@b",
    "wget --no-check-certificate https://a.example/file.tar.gz",
    "git fetch origin",
    "git clone git@github.com:owner/repo.git",
    "git clone https://github.com/owner/repo.git",
    "git clone ssh://git@github.com/owner/repo.git",
    "/usr/lib/git-core/git-remote-https origin https://github.com/owner/repo",
    "apt-get update",
    "/usr/lib/apt/methods/https",
    "apt-key list",
    "dnf -y install passwd",
    "pip install --index-url https://pypi.org/simple requests",
    "npm ci --prefer-offline",
    "yarn install --frozen-lockfile",
    "cargo build --release",
    "go mod download",
    "mvn -B -DskipTests package",
    "gradle --no-daemon build",
    "docker run -d -p 8080:80 --name web nginx:1.27",
    "docker run -v /etc/passwd:/etc/passwd:ro -v /run/secrets/token:/token:ro alpine",
    "docker pull registry.example:5000/team/app@sha256:0123456789abcdef",
    "docker login registry.example --username me --password-stdin",
    "podman run --rm -it -e LANG=C docker.io/library/debian:12",
    "kubectl get secret db -o yaml",
    "kubectl -n kube-system get pods",
    "kubectl create token default",
    "kubelet --config=/var/lib/kubelet/config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf",
    "kube-apiserver --service-account-key-file=/etc/kubernetes/pki/sa.pub --token-auth-file=/etc/tokens.csv",
    "helm upgrade --install app ./chart -f values.yaml",
    "mysql -h db -P 3306 -u root -p shop",
    "mysqld --port=3306 --datadir=/var/lib/mysql",
    "psql -h db -p 5432 -U app --no-password shop",
    "psql --password -h db -U app",
    "postgres: app shop 10.0.0.5(52114) idle",
    "pg_dump --no-password -Fc shop",
    "redis-server *:6379",
    "redis-cli -h cache -p 6379 ping",
    "mongod --config /etc/mongod.conf",
    "nginx: worker process",
    "/usr/sbin/apache2 -k start",
    "php-fpm: pool www",
    "/usr/bin/python3 -m http.server 8000",
    "python3 manage.py runserver 0.0.0.0:8000",
    "python3 train.py --max-tokens 4096 --tokenizer bert-base --batch 32",
    "node --max-old-space-size=4096 server.js",
    "java -Xmx2g -Dserver.port=8080 -jar app.jar",
    "java -Djavax.net.ssl.trustStore=/etc/ssl/java/cacerts -jar app.jar",
    "ruby bin/rails server -b 0.0.0.0",
    "perl -e print 1",
    "bash -c cd /srv && ./run.sh",
    "bash --login",
    "sudo -u www-data ls",
    "sudo -H -S -n -p password: -u root /bin/sh -c id",
    "su - postgres",
    "passwd root",
    "getent passwd root",
    "cat /etc/passwd",
    "grep -r TODO src",
    "vim /etc/hosts",
    "/usr/bin/google-chrome --type=renderer --password-store=basic --lang=en",
    "/opt/chrome/chrome --type=utility --utility-sub-type=network.mojom.NetworkService",
    "/usr/lib/firefox/firefox -contentproc -childID 3",
    "chronyd -F 1",
    "ntpd -p /run/ntpd.pid -g",
    "dhclient -pf /run/dhclient.eth0.pid eth0",
    "dig +short example.org @9.9.9.9",
    "ping -c 3 192.0.2.1",
    "traceroute -p 443 example.org",
    "nc -zv host 22",
    "openssl s_client -connect example.org:443 -servername example.org",
    "certbot renew --quiet",
    "gpg --keyserver hkps://keys.openpgp.org --recv-keys 0xDEADBEEF",
    "gpg --batch --passphrase-fd 0 --decrypt f.gpg",
    "ffmpeg -i in.mp4 -pass 1 -f null /dev/null",
    "tar -czf - /srv",
    "zip -r out.zip dir",
    "7z a out.7z dir",
    "borg create ssh://backup@host/./repo::now /srv",
    "restic --password-file /etc/restic.pass backup /srv",
    "rclone sync /srv remote:bucket",
    "aws s3 sync s3://bucket/path .",
    "terraform apply -auto-approve",
    "ansible-playbook -i hosts site.yml --private-key /root/.ssh/id_rsa",
    "ansible-playbook site.yml --vault-password-file /root/.vault",
    "prometheus --config.file=/etc/prometheus/prometheus.yml --web.listen-address=:9090",
    "node_exporter --collector.textfile.directory=/var/lib/node_exporter",
    "grafana server --homepath=/usr/share/grafana",
    "telegraf --config /etc/telegraf/telegraf.conf",
    "snapd",
    "openvpn --config client.ovpn --auth-user-pass /etc/openvpn/auth",
    "wg-quick up wg0",
    "env PWD=/srv OLDPWD=/root SHELL=/bin/bash make",
    "make -j8 bypass=1 compass=2",
    "smbclient -L //srv -N",
    "smbclient //srv/share -U me",
    "ldapsearch -x -b dc=example,dc=org uid=me",
    "nmcli dev wifi list",
    "svn update --non-interactive --no-auth-cache",
    "ssh-keygen -t ed25519 -f key",
    "ssh-agent -s",
    "pyegress run -o logfmt -O logfmt:file:/var/log/egress -O logfmt:redact:false",
    "vault server -config=/etc/vault.hcl",
    "xargs -n1 -P 4 curl -sO",
    "find / -name *.key -o -name *token*",
    "sqlplus / as sysdba",
    "mc /srv",
    "/usr/bin/mc alias list",
    "journalctl -u ssh --since today",
)
assert len(HARMLESS) >= 100

# What a secret can hold in each of the forms: not what ends the value there, such as & in an address.
SECRETS = st.one_of(
    st.text(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.~$!*^", min_size=6, max_size=40
    ),
    st.text(min_size=6, max_size=12).map(lambda text: "".join(c for c in text if c.isalnum())),
).filter(lambda text: len(text) > 5 and not text.startswith("-") and text.strip("*") != "")
PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            (
                *(
                    "password=",
                    "--password",
                    "--token=",
                    "Bearer",
                    "Authorization:",
                    "Basic",
                    "Cookie:",
                    "a=b;",
                ),
                *(
                    "://",
                    "user:x@",
                    "https://",
                    "@",
                    ";",
                    "&",
                    "?",
                    "=",
                    ":",
                    '"',
                    "'",
                    ",",
                    "***",
                    "pass:",
                    "sig=",
                ),
                *(
                    "mysql",
                    "-p",
                    "-px",
                    "curl",
                    "-u",
                    "a:b",
                    "-b",
                    "sshpass",
                    "7z",
                    "--pass",
                    "redis-cli",
                    "-a",
                ),
                *("--cookie", "docker", "login", "wpa_passphrase", "nmcli", "AKIAIOSFODNN7EXAMPLE"),
            )
        ),
        st.text(max_size=8),
    ),
    max_size=12,
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(secret=SECRETS)
def test_no_secret_is_shown(form: str, secret: str) -> None:
    """Neither whole nor any part of it that is long enough to tell."""
    shown = mask(form.format(secret))
    assert MASK in shown
    around = mask(form.format("")) + form
    for at in range(len(secret) - 3):
        piece = secret[at : at + 4]
        assert piece in around or piece not in shown


@pytest.mark.parametrize("form", FORMS)
def test_the_rest_stays(form: str) -> None:
    """The program, and for most of them the host, can still be read."""
    shown = mask(form.format("hunter2hunter2"))
    assert shown.split()[0] == form.split()[0]
    assert "a.example" not in form or "a.example" in shown


@pytest.mark.parametrize("cmdline", HARMLESS)
def test_harmless_command_lines_stay_as_they_are(cmdline: str) -> None:
    assert mask(cmdline) == cmdline


@given(
    text=st.one_of(
        st.text(),
        PIECES.map(" ".join),
        PIECES.map("".join),
        st.binary().map(lambda data: data.decode(errors="surrogateescape")),
    )
)
def test_any_text_is_taken_and_masked_once(text: str) -> None:
    """What was masked is not masked again into something else."""
    once = mask(text)
    assert mask(once) == once


@pytest.mark.parametrize(
    "key",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "glpat-abcdefghij0123456789",
        "xoxb-1234567890-abcdefghij",
        "sk-abcdefghij0123456789ABCDEFGH",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "hvs.CAESIJ0123456789abcdefghij",
    ],
)
def test_keys_are_known_by_their_shape(key: str) -> None:
    for text in (f"tool {key} x", f"tool --with={key}", f"git clone https://{key}@host/x", f"'{key}'"):
        assert key not in mask(text) and MASK in mask(text)


def test_private_key_in_an_argument() -> None:
    text = "tool -----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY----- next"
    shown = mask(text)
    assert "b3Blb" not in shown and shown.endswith(" next")


def test_long_hostile_command_lines_take_no_time_to_speak_of() -> None:
    """Nothing grows with the square: this would take minutes, and the test would time out."""
    for piece in (
        "a",
        "://:",
        "password",
        "'\"",
        "--",
        "token ",
        "mysql ",
        "docker ",
        "-----BEGIN ",
        "?a",
        "eyJ",
    ):
        mask(piece * (200_000 // len(piece)))


def process(cmdline: str | None, parent: Process | None = None) -> Process:
    return Process(pid=1, name="x", cmdline=cmdline, script=cmdline, parent=parent)


def test_process_and_its_parents() -> None:
    """The whole family; whoever has no secret stays the very same object, so that caches by object still work."""
    clean = process("init")
    parent = process("sh -c x --token=abcdef", clean)
    redactor = Redactor(True)
    shown = redactor.process(process("curl", parent))
    assert shown.parent is not None and shown.parent.cmdline == shown.parent.script == "sh -c x --token=***"
    assert shown.parent.parent is clean
    assert redactor.process(clean) is clean
    assert redactor.process(parent) is redactor.process(parent)
    assert redactor.process(process(None)).cmdline is None


def test_turned_off() -> None:
    secret = process("x --token=abcdef")
    assert Redactor(False).process(secret) is secret
    assert Redactor(False).text("x --token=abcdef") == "x --token=abcdef"


def test_processes_that_come_and_go_are_never_mixed_up() -> None:
    redactor = Redactor(True)
    for number in range(20_000):
        # Each dies at once, so that ids repeat.
        shown = redactor.process(Process(pid=number, cmdline=f"{number} --token=x"))
        assert (shown.pid, shown.cmdline) == (number, f"{number} --token=***")
    assert len(redactor._twins) <= 1024
