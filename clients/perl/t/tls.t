use v5.36;

use FindBin qw($Bin);
use Test::More;
use lib "$Bin/lib";

use File::Temp ();
use Net::RealizeHit;
use Scripted ();

BEGIN {
    eval { require IO::Socket::SSL; require IO::Socket::SSL::Utils; 1 } or plan skip_all => 'IO::Socket::SSL is not installed';
}
delete @ENV{qw(http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY)};

my ( $authority, $authority_key ) = IO::Socket::SSL::Utils::CERT_create(
    CA      => 1,
    subject => { commonName => 'An authority of the tests' },
);
my ( $certificate, $key ) = IO::Socket::SSL::Utils::CERT_create(
    issuer          => [ $authority, $authority_key ],
    purpose         => 'server',
    subject         => { commonName => 'localhost' },
    subjectAltNames => [ [ DNS => 'localhost' ] ],
);
my $directory = File::Temp->newdir;
my $file      = "$directory/ca.pem";
IO::Socket::SSL::Utils::PEM_cert2file( $authority, $file );

my $server = Scripted->start(
    sub ($peer) {
        return if !eval { $peer->_more; 1 };
        if ( $peer->{in} =~ /\APOST/ ) {
            $peer->request;
            return $peer->answer( 200, '{"id":"bc86961b","nodes":1}' );
        }
        $peer->upgrade;
        $peer->confirm('bc86961b');
        $peer->text( 'bc86961b?"' . 'x' x 60_000 . q{"} );
        $peer->text('bc86961b?2');
        $peer->stay;
    },
    tls => { SSL_cert => $certificate, SSL_key => $key },
);
my $port = $server->port;

my %trusted = ( tls => { SSL_ca_file => $file } );
my $client  = Net::RealizeHit::Client->new( "wss://localhost:$port/ws", %trusted );
my $news    = $client->subscribe( { kind => 'news' } );
is( length $news->next(5)->text, 60_002, 'a message over TLS' );
is( $news->next(5)->text, '2', 'the next one' );
$client->close;

is( Net::RealizeHit::API->new( "https://localhost:$port/", %trusted )->publish( { kind => 'news' }, 1 )->{nodes},
    1, 'a publication over TLS' );

ok( !eval { Net::RealizeHit::Client->new("wss://localhost:$port/ws")->connect; 1 }, 'an unknown certificate' );
isa_ok( $@, 'Net::RealizeHit::Error::Unavailable', 'its error' );
like( $@->text, qr/certificate verify failed/, 'its text' );

ok( !eval { Net::RealizeHit::Client->new( "wss://127.0.0.1:$port/ws", %trusted )->connect; 1 }, 'a certificate of another name' );
isa_ok( $@, 'Net::RealizeHit::Error::Unavailable', 'its error' );

ok( !eval { Net::RealizeHit::API->new( "https://localhost:$port/", backoff_base => 0.01 )->publish( { kind => 'news' }, 1 ); 1 },
    'a publication to an unknown certificate' );
isa_ok( $@, 'Net::RealizeHit::Error::Unavailable', 'its error' );

done_testing();
