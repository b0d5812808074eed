"""Sends requests to a server over HTTP, like a browser and a script; runs on the machine of the server. Prints the
responses as JSON.

Arguments: base URL, user, password, then paths of the API. Without paths, the login form is tried.
"""

import base64
import http.cookiejar
import json
import sys
import urllib.error
import urllib.parse
import urllib.request


def ask(opener, url, data=None, headers=None):
    try:
        with opener.open(urllib.request.Request(url, data, headers or {}), timeout=60) as answer:
            return {"status": answer.status, "url": answer.url, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "url": error.url, "body": error.read().decode()}
    except OSError as error:
        return {"status": 0, "url": url, "body": str(error)}


def log_in(base, user, password):
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    form = ask(opener, f"{base}/login")
    origin = "/".join(base.split("/")[:3])
    fields = urllib.parse.urlencode({"login": user, "password": password, "next": ""}).encode()
    return {"form": form, "start": ask(opener, f"{base}/login", fields, {"Origin": origin})}


def main():
    base, user, password, *paths = sys.argv[1:]
    if not paths:
        print(json.dumps(log_in(base, user, password)))
        return
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"} if user else {}
    print(json.dumps([ask(urllib.request.build_opener(), f"{base}{path}", headers=headers) for path in paths]))


if __name__ == "__main__":
    main()
