#!/bin/sh
# Makes an authority, the server's certificate and one for each client:
#
#     sh certificates.sh FOLDER SERVER_NAME CLIENT...
#     sh certificates.sh tls recon.example scanner
#
# FOLDER then has ca.pem and ca.key, server.pem and server.key, and CLIENT.pem and CLIENT.key. Another run adds clients and
# leaves what is there. Keys are readable by you alone. ca.key belongs on neither of the two machines: who has it can
# make a client. Certificates end after DAYS days, 730 unless it is set, and the authority after ten years.
set -eu
if [ $# -lt 3 ]; then
    echo "usage: certificates.sh FOLDER SERVER_NAME CLIENT..." >&2
    exit 2
fi
folder=$1 server_name=$2
shift 2
umask 077
mkdir -p "$folder"
cd "$folder"

make_key() {
    openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# sign NAME COMMON_NAME EXTENSIONS: a key, and a certificate of the authority for it.
sign() {
    if [ -e "$1.pem" ]; then
        echo "$1.pem is there already: it is left as it is"
        return
    fi
    make_key "$1.key"
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n%s\n' "$3" >"$1.ext"
    openssl req -new -key "$1.key" -subj "/CN=$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days "${DAYS:-730}" -sha256 \
        -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}

if [ ! -e ca.pem ]; then
    make_key ca.key
    openssl req -x509 -new -key ca.key -days 3650 -sha256 -subj "/CN=sbim-deploy authority" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign -out ca.pem
fi
case $server_name in
*[!0-9.]*) alternative=DNS ;;
*) alternative=IP ;;
esac
sign server "$server_name" "extendedKeyUsage=serverAuth
subjectAltName=$alternative:$server_name"
for client in "$@"; do
    sign "$client" "$client" extendedKeyUsage=clientAuth
done
