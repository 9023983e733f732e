# frozen_string_literal: true

require_relative "helper"
require "openssl"
require "tempfile"

class TLSTest < Minitest::Test
  include ScriptedServers

  NEWS = { kind: "news" }.freeze

  def setup
    super
    @key = OpenSSL::PKey::EC.generate("prime256v1")
    @certificate = certificate("DNS:localhost")
    @file = Tempfile.new("ca")
    @file.write(@certificate.to_pem)
    @file.close
  end

  def certificate(names)
    made = OpenSSL::X509::Certificate.new
    made.version = 2
    made.serial = 1
    made.subject = made.issuer = OpenSSL::X509::Name.parse("/CN=realizehit test")
    made.public_key = @key
    made.not_before = Time.now - 60
    made.not_after = Time.now + 3600
    made.add_extension(OpenSSL::X509::ExtensionFactory.new.create_extension("subjectAltName", names))
    made.sign(@key, "SHA256")
  end

  def encrypted(script)
    lambda do |socket|
      context = OpenSSL::SSL::SSLContext.new
      context.key = @key
      context.cert = @certificate
      tls = OpenSSL::SSL::SSLSocket.new(socket, context)
      script.call(tls.accept)
    rescue OpenSSL::SSL::SSLError
      nil # the client refused the certificate
    end
  end

  def test_subscribes
    large = "\"#{'x' * 300_000}\""
    script = websocket(lambda do |server|
      server.reply(ret: "bc86961b")
      server.say("bc86961b?#{large}")
      server.idle
    end)
    port = serve(encrypted(script))
    Realizehit::Client.open("wss://localhost:#{port}/ws", ca_file: @file.path) do |client|
      assert_equal large, client.subscribe(NEWS).next(timeout: 10).text
    end
  end

  def test_publishes
    reply = answer(200, '{"status":"queued","id":"bc86961b","nodes":2}')
    port = serve(encrypted(->(socket) { exchange(socket, reply, []) }))
    api = Realizehit::API.new("https://localhost:#{port}/", ca_file: @file.path)
    assert_equal 2, api.publish(NEWS, 1).nodes
  end

  def test_a_certificate_that_nobody_signed_is_refused
    port = serve(*[encrypted(->(_) { flunk })] * 4)
    error = assert_raises(Realizehit::Unavailable) { Realizehit::Client.new("wss://localhost:#{port}/ws") }
    assert_includes error.message, "certificate verify failed"
    api = Realizehit::API.new("https://localhost:#{port}/", backoff_base: 0.001)
    assert_raises(Realizehit::Unavailable) { api.publish(NEWS, 1) }
  end

  def test_a_certificate_of_another_host_is_refused
    @certificate = certificate("DNS:elsewhere.test")
    File.write(@file.path, @certificate.to_pem)
    port = serve(encrypted(->(_) { flunk }))
    assert_raises(Realizehit::Unavailable) do
      Realizehit::Client.new("wss://localhost:#{port}/ws", ca_file: @file.path)
    end
  end
end
